"""Local training against hand-written NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from fedjax_rec.clients import local
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Correction, Params
from fedjax_rec.models.by_id import matrix_factorization

RATE = 0.5


def pairs_as_given(examples, key):
    del key
    return {k: examples[k] for k in ("item", "user", "label", "mask")}


def examples(items, labels, real=None):
    n = len(items)
    return {
        "item": jnp.asarray(items, jnp.int32),
        "user": jnp.zeros(n, jnp.int32),
        "label": jnp.asarray(labels, jnp.float32),
        "mask": jnp.arange(n) < (n if real is None else real),
    }


def start(num_items=6, dim=3):
    rng = np.random.default_rng(0)
    return Params(
        shared={
            "item": rows.Table(
                values=jnp.asarray(rng.normal(size=(num_items, dim)), jnp.float32)
            )
        },
        personal={"user": jnp.asarray(rng.normal(size=dim), jnp.float32)},
    )


def numpy_sgd(params, items, labels, batch, epochs=1, rate=RATE):
    """Whole-table minibatch SGD on the binary cross-entropy of `q_i . p`."""
    table = np.asarray(params.shared["item"].values, np.float64).copy()
    user = np.asarray(params.personal["user"], np.float64).copy()
    for _ in range(epochs):
        for first in range(0, len(items), batch):
            i, y = items[first : first + batch], labels[first : first + batch]
            slope = (1 / (1 + np.exp(-table[i] @ user)) - y) / len(i)
            user_grad = slope @ table[i]
            step = slope[:, None] * user
            np.add.at(table, i, -rate * step)
            user -= rate * user_grad
    return table, user


def trained(update, params, data):
    result = jax.jit(update)(params, (), data, {}, jax.random.key(0))
    delta = result.delta["item"]
    table = rows.scatter_add(params.shared["item"].values, delta)
    return table, result.personal["user"], result


MODEL = matrix_factorization(6, dim=3)
SPARSE = Phase(lambda h: optax.sgd(RATE), row_rate=lambda h: RATE)
DENSE = Phase(lambda h: optax.sgd(RATE))
ITEMS = np.array([4, 1, 4, 0, 4, 1, 5])
LABELS = np.array([1.0, 0, 0, 1, 1, 0, 1])


@pytest.mark.parametrize("phase", [SPARSE, DENSE], ids=["rows", "optax"])
@pytest.mark.parametrize(("batch", "epochs"), [(2, 2), (3, 1), (7, 1), (100, 2)])
def test_sgd_with_repeated_items(phase, batch, epochs):
    params = start()
    update = local_update(
        MODEL, pairs_as_given, (phase,), batch_size=batch, epochs=epochs, shuffle=False
    )
    data = examples([*ITEMS, 6, 6], [*LABELS, 0, 0], real=7)
    table, user, result = trained(update, params, data)
    expected_table, expected_user = numpy_sgd(params, ITEMS, LABELS, batch, epochs)
    np.testing.assert_allclose(table, expected_table, atol=1e-6)
    np.testing.assert_allclose(user, expected_user, atol=1e-6)
    assert float(result.weight) == 7


def test_a_table_longer_than_the_pairs_takes_the_same_steps():
    model = matrix_factorization(500, dim=3)
    params = start(500)
    update = local_update(model, pairs_as_given, (SPARSE,), batch_size=2, shuffle=False)
    table, user, _ = trained(update, params, examples(ITEMS * 80, LABELS))
    expected_table, expected_user = numpy_sgd(params, ITEMS * 80, LABELS, 2)
    np.testing.assert_allclose(table, expected_table, atol=1e-6)
    np.testing.assert_allclose(user, expected_user, atol=1e-6)


@pytest.mark.parametrize("num_items", [3, 9, 40])  # fewer than the nine pairs, more
def test_rows_leave_in_order_each_once_and_padding_last(num_items):
    def decaying(h):
        return optax.chain(optax.add_decayed_weights(0.1), optax.sgd(RATE))

    model = matrix_factorization(num_items, dim=3)
    phase = Phase(decaying)  # moves what no pair reads, too
    update = local_update(model, pairs_as_given, (phase,), batch_size=2)
    items = ITEMS % num_items
    data = examples([*items, num_items, num_items], [*LABELS, 0, 0], real=7)
    delta = trained(update, start(num_items), data)[2].delta["item"]
    touched = np.unique(items)
    n = len(touched)
    assert len(delta.ids) == min(9, num_items)
    np.testing.assert_array_equal(delta.ids[:n], touched)
    assert (np.asarray(delta.ids[n:]) == num_items).all()
    assert np.abs(delta.values[:n]).min() > 0
    assert not np.asarray(delta.values[n:]).any()
    assert (delta.ordered, delta.num_rows) == (True, num_items)


def test_phases_see_what_the_phase_before_did():
    params = start()
    user = Phase(lambda h: optax.sgd(RATE), names=("user",))
    items = Phase(
        lambda h: optax.identity(), names=("item",), row_rate=lambda h: 2 * RATE
    )
    update = local_update(
        MODEL, pairs_as_given, (user, items), batch_size=100, shuffle=False
    )
    table, vector, result = trained(update, params, examples(ITEMS, LABELS))
    q = np.asarray(params.shared["item"].values, np.float64)
    p = np.asarray(params.personal["user"], np.float64)
    slope = (1 / (1 + np.exp(-q[ITEMS] @ p)) - LABELS) / 7
    p = p - RATE * slope @ q[ITEMS]
    slope = (1 / (1 + np.exp(-q[ITEMS] @ p)) - LABELS) / 7
    expected = q.copy()
    np.add.at(expected, ITEMS, -2 * RATE * slope[:, None] * p)
    np.testing.assert_allclose(vector, p, atol=1e-6)
    np.testing.assert_allclose(table, expected, atol=1e-6)
    logits = q[ITEMS] @ np.asarray(params.personal["user"], np.float64)
    loss = np.mean(np.logaddexp(0, logits) - LABELS * logits)
    np.testing.assert_allclose(result.metrics["loss"], loss, rtol=1e-6)


@pytest.mark.parametrize("phase", [SPARSE, DENSE], ids=["rows", "optax"])
@pytest.mark.parametrize("batch", [3, 100])
def test_a_fixed_table_stays_and_the_user_still_trains(phase, batch):
    params = start()
    update: Any = local_update(
        MODEL, pairs_as_given, (phase,), batch_size=batch, epochs=2, shuffle=False
    )
    table, user, _ = trained(
        functools.partial(update, correction=Correction(fixed=("item", "absent"))),
        params,
        examples(ITEMS, LABELS),
    )
    np.testing.assert_array_equal(table, params.shared["item"].values)
    q, p = (np.asarray(x) for x in (table, params.personal["user"]))
    for _ in range(2):
        for first in range(0, len(ITEMS), batch):
            i, y = ITEMS[first : first + batch], LABELS[first : first + batch]
            p = p - RATE * (1 / (1 + np.exp(-q[i] @ p)) - y) @ q[i] / len(i)
    np.testing.assert_allclose(user, p, atol=1e-6)


@pytest.mark.parametrize("rate", [None, RATE], ids=["optax", "rows"])
def test_proximal_pull_by_hand(rate):
    """Two full-batch steps: the second pulls shared rows, but not the user's vector."""
    params, mu = start(), 0.7
    row_rate = None if rate is None else lambda h: rate
    phase = Phase(lambda h: optax.sgd(RATE), row_rate=row_rate, proximal=lambda h: mu)
    update = local_update(
        MODEL, pairs_as_given, (phase,), batch_size=100, epochs=2, shuffle=False
    )
    table, user, _ = trained(update, params, examples(ITEMS, LABELS))
    one_table, one_user = numpy_sgd(params, ITEMS, LABELS, 100)
    q = np.asarray(params.shared["item"].values, np.float64)
    moved = Params(
        shared={"item": rows.Table(values=jnp.asarray(one_table))},
        personal={"user": one_user},
    )
    two_table, two_user = numpy_sgd(moved, ITEMS, LABELS, 100)
    np.testing.assert_allclose(
        table, two_table - RATE * mu * (one_table - q), atol=1e-6
    )
    np.testing.assert_allclose(user, two_user, atol=1e-6)


def test_shuffle_is_a_uniform_permutation_of_the_real_pairs():
    mask = jnp.arange(6) < 4
    keys = jax.random.split(jax.random.key(0), 6_000)
    order = jax.jit(jax.vmap(lambda key: local._order(key, mask, True)))
    orders = np.asarray(order(keys))
    assert (np.sort(orders[:, :4], axis=1) == np.arange(4)).all()
    codes = orders[:, :4] @ np.array([64, 16, 4, 1])
    _, counts = np.unique(codes, return_counts=True)
    assert len(counts) == 24
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_shuffle_of_many_pairs_agrees_with_the_packed_one_on_a_prefix(monkeypatch):
    monkeypatch.setattr(local, "_POSITION_BITS", 7)  # 128 pairs fit into packed words
    key = jax.random.key(1)
    few = np.asarray(local._order(key, jnp.arange(120) < 100, True))[:100]
    many = np.asarray(local._order(key, jnp.arange(300) < 100, True))[:100]
    np.testing.assert_array_equal(few, many)
    assert (np.sort(few) == np.arange(100)).all()
    assert (few != np.arange(100)).any()


def two_tables():
    """`x_i . p + y_i . p` for rows of two tables and a personal vector."""
    rng = np.random.default_rng(3)

    def table():
        values = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
        return rows.Table(values=values)

    def loss(params, frozen, batch, key, hparams):
        shared = params.shared
        items = rows.lookup(shared["x"], batch["item"])
        items = items + rows.lookup(shared["y"], batch["item"])
        scores = (items + shared["w"]) @ params.personal["user"]
        error = jnp.where(batch["mask"], scores - batch["label"], 0)
        return 0.5 * (error**2).sum() / batch["mask"].sum(), {}

    params = Params(
        shared={"x": table(), "y": table(), "w": jnp.asarray([0.1, 0.2, 0.3])},
        personal={"user": jnp.asarray(rng.normal(size=3), jnp.float32)},
    )
    return MODEL._replace(loss=loss), params


def slopes_of(params):
    """Gradients at the start: of a table (both have the same), `w` and the user."""
    x, y = (np.asarray(params.shared[n].values, np.float64) for n in "xy")
    user = np.asarray(params.personal["user"], np.float64)
    items = x[ITEMS] + y[ITEMS] + np.asarray(params.shared["w"])
    slope = (items @ user - LABELS) / len(ITEMS)
    table = np.zeros((6, 3))
    np.add.at(table, ITEMS, slope[:, None] * user)
    return table, slope.sum() * user, slope @ items


def test_tables_have_rates_of_their_own():
    model, params = two_tables()
    phase = Phase(lambda h: optax.sgd(RATE), row_rate=lambda h: {"x": 0.3})
    update = local_update(model, pairs_as_given, (phase,), batch_size=99, shuffle=False)
    data = examples(ITEMS, LABELS)
    result = jax.jit(update)(params, (), data, {}, jax.random.key(0))
    table, w, user = slopes_of(params)
    moved = rows.scatter_add(jnp.zeros((6, 3)), result.delta["x"])
    np.testing.assert_allclose(moved, -0.3 * table, atol=1e-6)
    # A table that the dict does not name stays.
    assert not np.asarray(result.delta["y"].values).any()
    np.testing.assert_allclose(result.delta["w"], -RATE * w, atol=1e-6)
    start = np.asarray(params.personal["user"])
    np.testing.assert_allclose(result.personal["user"], start - RATE * user, atol=1e-6)


@pytest.mark.parametrize(("batch", "rate"), [(99, 0.3), (2, 0.3), (2, None)])
def test_a_personal_table_trains_as_a_shared_one_and_stays(batch, rate):
    """One step on repeated rows, several steps, and an optimizer with a state."""
    model, params = two_tables()
    phase = Phase(lambda h: optax.adam(0.1) if rate is None else optax.sgd(RATE))
    phase = phase._replace(row_rate=rate and (lambda h: rate))
    update = jax.jit(
        local_update(model, pairs_as_given, (phase,), batch_size=batch, shuffle=False)
    )
    shared = {name: params.shared[name] for name in "xw"}
    own = Params(shared=shared, personal={**params.personal, "y": params.shared["y"]})
    rest = (), examples(ITEMS, LABELS), {}, jax.random.key(0)

    # The model reads both tables by name; only their place differs.
    def loss(params, *args):
        groups = {**params.shared, **params.personal}
        names = {"x", "y", "w"}
        return model.loss(
            Params(
                shared={n: groups[n] for n in names},
                personal={n: x for n, x in groups.items() if n not in names},
            ),
            *args,
        )

    mine = jax.jit(
        local_update(
            model._replace(loss=loss), pairs_as_given, (phase,), batch_size=batch,
            shuffle=False,
        )
    )(own, *rest)  # fmt: skip
    both = update(params, *rest)
    start = np.asarray(params.shared["y"].values)
    expected = start + rows.scatter_add(jnp.zeros((6, 3)), both.delta["y"])
    np.testing.assert_allclose(mine.personal["y"].values, expected, atol=1e-6)
    assert set(mine.delta) == {"x", "w"}
    untouched = np.setdiff1d(np.arange(6), ITEMS)
    np.testing.assert_array_equal(
        np.asarray(mine.personal["y"].values)[untouched], start[untouched]
    )
    if batch == 99:
        np.testing.assert_allclose(
            mine.personal["y"].values, start - 0.3 * slopes_of(params)[0], atol=1e-6
        )


@pytest.mark.parametrize("batch", [6, 7, 8])
def test_groups_stay_together_and_the_last_batch_is_short(batch):
    """Five real groups of three of six, in batches of two: 2, 2 and 1 real ones."""

    def draw(examples, key):
        return {
            "item": jnp.arange(18, dtype=jnp.int32),
            "label": jnp.arange(18) * 1.0,
            "mask": jnp.arange(18) < 14,  # the last real group lacks its third
        }

    def loss(params, frozen, batch, key, hparams):
        # The groups of a batch, coded as a sum of powers of four.
        assert batch["label"].shape == (6,)
        group = batch["label"].reshape(2, 3) // 3
        together = (group == group[:, :1]).all() & (batch["label"][::3] % 3 == 0).all()
        real = batch["mask"].reshape(2, 3)
        seen = jnp.where(real, 4.0**group, 0).sum()
        return params.personal["user"].sum(), {
            "together": together * 1.0,
            "seen": seen / real.sum(),
            "steps": 1.0 / real.sum(),
        }

    params = Params(shared={"w": jnp.zeros(1)}, personal={"user": jnp.zeros(1)})
    update = local_update(
        MODEL._replace(loss=loss),
        draw,
        (Phase(lambda h: optax.sgd(RATE)),),
        batch_size=batch,
        epochs=2,
        group=3,
    )
    data = {"mask": jnp.ones(5, bool)}
    for seed in range(5):
        result = jax.jit(update)(params, (), data, {}, jax.random.key(seed))
        metrics = {k: float(v) for k, v in result.metrics.items()}
        assert metrics["together"] == 1
        # Each mean is weighted by real pairs, 28 in two epochs of three steps.
        assert metrics["steps"] * 28 == pytest.approx(6)
        expected = 2 * (3 * (1 + 4 + 16 + 64) + 2 * 256)
        assert metrics["seen"] * 28 == pytest.approx(expected)
