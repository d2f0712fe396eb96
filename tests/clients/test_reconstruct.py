"""Reconstruction against hand-written NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.clients.reconstruct import reconstruct_update
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Params
from fedjax_rec.models.by_id import matrix_factorization

MODEL = matrix_factorization(6, dim=3)
ITEMS = np.array([4, 1, 4, 0, 2, 5, 6, 6, 6])
LABELS = np.array([1.0, 0, 0, 1, 0, 0, 0, 0, 0])
REAL = 6  # two groups of three; the third is padding
HPARAMS = {"user_lr": 0.7, "client_lr": 0.3, "item_lr_scale": 2.0}


def build(model=None, draw_pairs=None, **options):
    return reconstruct_update(
        model or MODEL,
        draw_pairs or draw,
        rate=lambda h: h["client_lr"],
        group=3,
        **options,
    )


def draw(examples, key):
    del examples, key
    return {
        "item": jnp.asarray(ITEMS, jnp.int32),
        "user": jnp.zeros(9, jnp.int32),
        "label": jnp.asarray(LABELS, jnp.float32),
        "mask": jnp.arange(9) < REAL,
    }


def start():
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
    # The client starts from zero, whatever it held before.
    user = jnp.asarray([5.0, 6.0, 7.0])
    return Params(shared={"item": rows.Table(values=table)}, personal={"user": user})


def by_hand(table, support, query, steps):
    """The user fitted on some pairs; the table's step on others; the loss there."""

    def slopes(user, at):
        return (1 / (1 + np.exp(-table[ITEMS[at]] @ user)) - LABELS[at]) / len(at)

    user = np.zeros(3)
    for _ in range(steps):
        user = user - 0.7 * slopes(user, support) @ table[ITEMS[support]]
    step = np.zeros((6, 3))
    np.add.at(step, ITEMS[query], -0.6 * slopes(user, query)[:, None] * user)
    logits = table[ITEMS[query]] @ user
    loss = np.mean(np.logaddexp(0, logits) - LABELS[query] * logits)
    return user, step, loss


@pytest.mark.parametrize("steps", [1, 4])
def test_all_pairs_serve_both(steps):
    params, every = start(), np.arange(REAL)
    update = build(steps=steps)
    result = jax.jit(update)(params, (), {}, HPARAMS, jax.random.key(0))
    table = np.asarray(params.shared["item"].values, np.float64)
    user, step, loss = by_hand(table, every, every, steps)
    np.testing.assert_allclose(result.personal["user"], user, atol=1e-6)
    got = rows.scatter_add(jnp.zeros((6, 3)), result.delta["item"])
    np.testing.assert_allclose(got, step, atol=1e-6)
    np.testing.assert_allclose(result.metrics["loss"], loss, rtol=1e-6)
    assert float(result.weight) == 2  # positives


def test_the_shared_step_sees_the_query_and_the_user_the_support():
    params = start()
    update = jax.jit(build(steps=2, query=0.5))
    table = np.asarray(params.shared["item"].values, np.float64)
    first, second, every = np.arange(3), np.arange(3, 6), np.arange(6)
    cases = [(second, first, 1), (first, second, 1), (every, every, 2)]
    expected = [by_hand(table, s, q, 2)[1] for s, q, _ in cases]
    whole = by_hand(table, every, every, 2)[0]
    seen = np.zeros(3, int)
    for seed in range(60):
        result = update(params, (), {}, HPARAMS, jax.random.key(seed))
        got = rows.scatter_add(jnp.zeros((6, 3)), result.delta["item"])
        gaps = [np.abs(got - e).max() for e in expected]
        case = int(np.argmin(gaps))
        assert gaps[case] < 1e-6
        assert float(result.weight) == cases[case][2]
        seen[case] += 1
        # The part that the client keeps was fitted on all pairs.
        np.testing.assert_allclose(result.personal["user"], whole, atol=1e-6)
    # Each of the two lies in the query half of the time: 1/4, 1/4, and 1/2 neither.
    assert (np.abs(seen - [15, 15, 30]) < 12).all()


def test_a_client_without_pairs_moves_no_parameter():
    params = start()
    update = build(draw_pairs=lambda e, k: {**draw(e, k), "mask": jnp.zeros(9, bool)})
    result = jax.jit(update)(params, (), {}, HPARAMS, jax.random.key(0))
    assert float(result.weight) == 0
    assert not np.asarray(result.delta["item"].values).any()
    assert not np.asarray(result.personal["user"]).any()


@pytest.mark.parametrize("query", [-0.1, 1.0])
def test_shares_of_the_query_that_are_refused(query):
    with pytest.raises(ValueError, match=r"share in \[0, 1\)"):
        build(query=query)


def texts_model():
    """Item vectors `E w`, one by one or lifted, and a row table."""

    def vectors(params, frozen, batch):
        shared = params.shared
        if "vectors" in shared:
            vectors = rows.lookup(shared["vectors"], batch["item"])
        else:
            vectors = frozen[batch["text"]] @ shared["w"]
        return vectors + rows.lookup(shared["item"], batch["item"])

    def loss(params, frozen, batch, key, hparams):
        del key
        logits = vectors(params, frozen, batch) @ params.personal["user"]
        each = jnp.logaddexp(0, logits) - batch["label"] * logits
        return jnp.sum(each * batch["mask"]) / batch["mask"].sum(), {}

    def lift(shared, frozen, axis=None, items=None):
        del axis
        texts = frozen if items is None else frozen[items]
        new = {"vectors": rows.Table(values=texts @ shared["w"])}
        return {**{k: v for k, v in shared.items() if k != "w"}, **new}

    return MODEL._replace(loss=loss, lift=lift)


@pytest.mark.parametrize("num_items", [6, 20])  # fewer than pairs, and more
def test_vectors_computed_once_change_nothing(num_items):
    rng = np.random.default_rng(1)
    frozen = jnp.asarray(rng.normal(size=(num_items, 4)), jnp.float32)
    table = jnp.asarray(rng.normal(size=(num_items, 3)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)
    params = Params(
        shared={"w": w, "item": rows.Table(values=table)}, personal=start().personal
    )

    def pairs(examples, key):
        items = jnp.asarray(np.minimum(ITEMS, 5), jnp.int32)
        return {**draw(examples, key), "item": items, "text": items}

    model = texts_model()
    results = [
        jax.jit(build(m, pairs, steps=2, query=0.5))(
            params, frozen, {}, HPARAMS, jax.random.key(3)
        )
        for m in (model, model._replace(lift=None))
    ]
    assert float(jnp.abs(results[0].delta["w"]).max()) > 0.01
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
