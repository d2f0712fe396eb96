"""Packing: every token is kept, rows are full, and the way back is exact."""

import time
from types import SimpleNamespace

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core import batch_packing, packing
from fedjax_rec.core.batch_packing import all_under_vmap


def title_lengths(count, seed=0):
    """Like the tokens of a film's title with its genres: 5..40, 15 on average."""
    drawn = np.random.default_rng(seed).gamma(6, 2.5, count)
    return np.clip(np.round(drawn), 5, 40).astype(int)


def random_lists(lengths, width=None, seed=1):
    generator = np.random.default_rng(seed)
    shape = () if width is None else (width,)
    return [generator.normal(size=(t, *shape)).astype(np.float32) for t in lengths]


def sums(values, layout, num_texts):
    """The sum of each segment's tokens: `[R, W, D] -> [R, G, D]`."""
    hot = layout.segment[..., None] == jnp.arange(1, num_texts + 1)
    return jnp.einsum("rwg,rwd->rgd", hot.astype(values.dtype), values)


def mixed(weight):
    """An encoder that mixes a text's tokens, of any order, and depends on `weight`."""

    def encode(values, layout, num_texts):
        position = jnp.sin(layout.position[..., None].astype(values.dtype))
        return sums(jnp.tanh((values + position) @ weight), layout, num_texts)

    return encode


def test_lists_end_in_a_zero_row():
    lists = packing.make_lists(random_lists([2, 3], width=4))
    assert lists.values.shape == (6, 4)
    assert not lists.values[-1].any()
    assert lists.length.tolist() == [2, 3]
    assert packing.make_lists([]).values.shape == (1,)
    with pytest.raises(ValueError, match="trailing zero"):
        packing.with_lengths(np.zeros(5), np.array([2, 3]))


@pytest.mark.parametrize("ids", [None, [7, 3, 11, 0]])
@pytest.mark.parametrize("width", [None, 40])
def test_a_plan_holds_every_list_once_and_whole(ids, width):
    lengths = np.array([3, 1, 40, 7, 0, 12, 12, 5, 1, 1, 39, 20])
    values = random_lists(lengths)
    lists = packing.make_lists(values)
    plan = packing.plan(lengths, width, None if ids is None else np.array(ids))
    rows, segment = np.asarray(lists.values[plan.index]), plan.layout.segment
    chosen = [i for i in ids or range(len(lengths)) if lengths[i]]
    slots = np.asarray(plan.slots)
    dropped = plan.index.shape[0] * plan.per_row
    assert [i for i in range(len(lengths)) if slots[i] < dropped] == sorted(chosen)
    for i in chosen:
        row, slot = divmod(slots[i], plan.per_row)
        here = np.asarray(segment[row] == slot + 1)
        np.testing.assert_array_equal(rows[row][here], values[i])
        np.testing.assert_array_equal(
            plan.layout.position[row][here], np.arange(lengths[i])
        )
    padding = np.asarray(segment) == 0
    assert padding.sum() == padding.size - lengths[chosen].sum()
    assert (np.asarray(plan.index)[padding] == lengths.sum()).all()
    assert not rows[padding].any()


def test_segments_of_a_row_come_in_order_and_at_most_per_row():
    plan = packing.plan(title_lengths(300), 64)
    segment = np.asarray(plan.layout.segment)
    assert segment.max() == plan.per_row
    for row in segment:
        held = row[row > 0]
        assert (row[: len(held)] > 0).all(), "padding comes last"
        assert (np.diff(held) >= 0).all()
        assert set(held) == set(range(1, held.max() + 1))


def test_a_catalog_of_titles_packs_densely():
    plan = packing.plan(title_lengths(1682))
    assert (plan.layout.segment > 0).mean() > 0.95
    assert plan.index.shape[1] % 8 == 0
    assert 32 <= plan.index.shape[1] <= 128


def test_a_large_catalog_is_planned_in_seconds():
    started = time.monotonic()
    plan = packing.plan(title_lengths(100_000))
    assert time.monotonic() - started < 5
    assert (plan.layout.segment > 0).mean() > 0.95


def test_the_width_follows_a_list_longer_than_usual():
    assert packing.plan(np.array([5, 300, 7])).index.shape == (2, 300)
    with pytest.raises(ValueError, match="300 does not fit in rows of 64"):
        packing.plan(np.array([5, 300]), 64)


def test_nothing_to_plan():
    plan = packing.plan(np.array([4, 5]), ids=np.array([], int))
    assert plan.index.shape[0] == 0
    assert plan.slots.tolist() == [0, 0]


def test_a_plan_takes_vectors_back_to_their_lists():
    lengths = title_lengths(50)
    values = random_lists(lengths, width=3)
    lists = packing.make_lists(values)
    plan = packing.plan(lengths, ids=np.arange(40))
    out = packing.at_slots(
        sums(lists.values[plan.index], plan.layout, plan.per_row), plan.slots
    )
    np.testing.assert_allclose(
        out[:40], np.stack([v.sum(0) for v in values[:40]]), atol=1e-5
    )
    assert not out[40:].any()


@pytest.mark.parametrize(("count", "per_row"), [(1, 1), (6, 2), (7, 3), (5, 8), (9, 4)])
def test_a_folded_batch_is_whole(count, per_row):
    lengths = np.append(title_lengths(30), [1, 40])
    values = random_lists(lengths)
    lists = packing.make_lists(values)
    ids = np.random.default_rng(count).integers(0, 32, count)
    ids[0] = 32  # padding
    index, layout, slots, fits = jax.jit(batch_packing.fold, static_argnums=(2, 3))(
        lists, jnp.asarray(ids), per_row, 40 * per_row
    )
    assert fits
    assert index.shape == (-(-count // per_row), 40 * per_row)
    assert len(set(slots.tolist())) == count
    rows, segment = np.asarray(lists.values[index]), np.asarray(layout.segment)
    assert (segment > 0).sum() == sum(lengths[i] for i in ids if i < 32)
    assert not rows[segment == 0].any()
    for i, slot in zip(ids, slots.tolist(), strict=True):
        row, slot = divmod(slot, per_row)
        here = segment[row] == slot + 1
        expected = values[i] if i < 32 else []
        np.testing.assert_array_equal(rows[row][here], expected)
        np.testing.assert_array_equal(layout.position[row][here], np.arange(here.sum()))


def test_a_fold_says_whether_it_fits():
    lists = packing.make_lists(random_lists([6, 5, 4, 3]))
    # Snake order: 6 + 3 and 5 + 4.
    for width, expected in [(9, True), (8, False)]:
        *_, fits = batch_packing.fold(lists, jnp.arange(4), 2, width)
        assert bool(fits) is expected


def test_folds_under_vmap_are_the_folds_of_each():
    lists = packing.make_lists(random_lists(title_lengths(20)))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 21, (3, 6)))
    together = jax.vmap(lambda i: batch_packing.fold(lists, i, 3, 64))(ids)
    alone = [batch_packing.fold(lists, i, 3, 64) for i in ids]
    jax.tree.map(
        np.testing.assert_array_equal,
        together,
        jax.tree.map(lambda *x: jnp.stack(x), *alone),
    )


def test_a_fold_width_seldom_overflows_and_is_not_wasteful():
    lengths = title_lengths(1682)
    width = batch_packing.fold_width(lengths, 32, 4)
    assert width % 8 == 0
    lists = packing.make_lists(random_lists(lengths))
    ids = jnp.asarray(np.random.default_rng(5).integers(0, 1682, (4000, 32)))
    *_, fits = jax.jit(jax.vmap(lambda i: batch_packing.fold(lists, i, 4, width)))(ids)
    assert fits.mean() > 0.999
    assert lengths.mean() * 4 / width > 0.6
    assert batch_packing.fold_width(np.array([3, 3]), 8, 2) == 6


@pytest.fixture(scope="module")
def setting():
    lengths = np.append(title_lengths(40), [1, 40])
    return SimpleNamespace(
        lists=packing.make_lists(random_lists(lengths, width=8)),
        values=random_lists(lengths, width=8),
        ids=jnp.asarray(np.random.default_rng(3).integers(0, 43, (4, 6))),
        weight=jnp.asarray(np.random.default_rng(4).normal(size=(8, 5)) / 3),
    )


FITS, OVERFLOWS = 100, 41


def encoder(setting, width):
    def run(weight, ids):
        return batch_packing.encode_packed(
            mixed(weight), setting.lists, ids, per_row=3, width=width, longest=40
        )

    return run


def one_by_one(setting):
    """Each list in a row of its own, by NumPy."""

    def text(i):
        if i >= len(setting.values):
            return np.zeros(5)
        x = setting.values[i]
        x = x + np.sin(np.arange(len(x)))[:, None]
        return np.tanh(x @ np.asarray(setting.weight)).sum(0)

    return np.stack([[text(i) for i in ids] for ids in setting.ids.tolist()])


@pytest.mark.parametrize("width", [FITS, OVERFLOWS, 120])
def test_packed_vectors_are_those_of_each_text_alone(setting, width):
    *_, fits = jax.vmap(lambda i: batch_packing.fold(setting.lists, i, 3, width))(
        setting.ids
    )
    assert fits.all() == (width != OVERFLOWS)
    run = encoder(setting, width)
    expected = one_by_one(setting)
    weight, ids = setting.weight, setting.ids
    ways = {
        "vmap": jax.jit(jax.vmap(run, (None, 0)))(weight, ids),
        "eager": jnp.stack([run(weight, i) for i in ids]),
        "scan": jax.lax.scan(lambda c, i: (c, run(weight, i)), 0, ids)[1],
        "nested": jax.vmap(jax.vmap(run, (None, 0)), (None, 0))(weight, ids[None])[0],
        "scan of vmap": jax.jit(
            lambda: jax.lax.scan(
                lambda c, i: (c, jax.vmap(run, (None, 0))(weight, i)),
                0,
                ids.reshape(2, 2, 6),
            )[1].reshape(4, 6, 5)
        )(),
    }
    for name, found in ways.items():
        np.testing.assert_allclose(found, expected, atol=2e-6, err_msg=name)


def test_one_overflow_sends_all_members_the_long_way(setting):
    """Of two members only one overflows; both are still right."""
    ids = jnp.stack([jnp.full(6, 41), jnp.full(6, 40)])  # 40 tokens each, 1 token each
    *_, fits = jax.vmap(lambda i: batch_packing.fold(setting.lists, i, 3, 60))(ids)
    assert fits.tolist() == [False, True]
    found = jax.jit(jax.vmap(encoder(setting, 60), (None, 0)))(setting.weight, ids)
    one = SimpleNamespace(**{**vars(setting), "ids": ids})
    np.testing.assert_allclose(found, one_by_one(one), atol=5e-6)


def training_loss(run, weight, ids):
    """Personal steps in a scan, under `vmap`, as clients train."""

    def client(weight, ids):
        def step(w, _):
            loss, grad = jax.value_and_grad(lambda w: (run(w, ids) ** 2).mean())(w)
            return w - 0.1 * grad, loss

        return jax.lax.scan(step, weight, length=2)

    return jax.vmap(client, (None, 0))(weight, ids)


def test_gradients_agree_in_both_branches(setting):
    weight, ids = setting.weight, setting.ids
    found = {}
    for width in (FITS, OVERFLOWS):
        run = encoder(setting, width)
        found[width] = {
            "grad of vmap": jax.jit(
                jax.grad(lambda w, r=run: (jax.vmap(r, (None, 0))(w, ids) ** 2).mean())
            )(weight),
            "vmap of grad": jax.vmap(
                jax.grad(lambda w, i, r=run: (r(w, i) ** 2).mean()), (None, 0)
            )(weight, ids),
            "remat": jax.jit(
                jax.grad(jax.checkpoint(lambda w, r=run: (r(w, ids[0]) ** 2).mean()))
            )(weight),
            "train": jax.jit(lambda w, i, r=run: training_loss(r, w, i))(weight, ids),
        }
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        found[FITS],
        found[OVERFLOWS],
    )

    owner = np.repeat(np.arange(42), setting.lists.length)
    position = np.concatenate([np.arange(t) for t in setting.lists.length])

    @jax.jit
    def plainly(w):
        tokens = jnp.tanh((setting.lists.values[:-1] + jnp.sin(position)[:, None]) @ w)
        # Of 43 texts the last, the padding, has no token.
        return (jax.ops.segment_sum(tokens, owner, 43)[ids] ** 2).mean()

    np.testing.assert_allclose(
        found[FITS]["grad of vmap"], jax.grad(plainly)(weight), atol=1e-5
    )


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("width", [FITS, 120])
def test_only_one_branch_runs_under_vmap(setting, train, width):
    """If no overflow is possible, there is no second branch."""
    run = encoder(setting, width)

    def program(weight, ids):
        if train:
            return training_loss(run, weight, ids)
        return jax.vmap(run, (None, 0))(weight, ids)

    text = jax.jit(program).lower(setting.weight, setting.ids).compile().as_text()
    assert (" conditional(" in (text or "")) is (width == FITS)


def test_gradients_reach_the_lists_themselves(setting):
    def loss(values, width):
        lists = packing.Lists(
            values=values, offset=setting.lists.offset, length=setting.lists.length
        )
        run = encoder(SimpleNamespace(lists=lists), width)
        return (jax.vmap(run, (None, 0))(setting.weight, setting.ids) ** 2).mean()

    found = [
        jax.jit(jax.grad(loss), static_argnums=1)(setting.lists.values, width)
        for width in (FITS, OVERFLOWS)
    ]
    assert found[0].any()
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def conditionals(jaxpr):
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "cond":
            yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from conditionals(inner)


def test_the_way_out_keeps_nothing_for_the_backward_pass(setting):
    """Otherwise each step copies weights and the residuals of the branch not taken."""
    run = encoder(setting, FITS)

    def program(weight, ids):
        return jax.vmap(
            jax.value_and_grad(lambda w, i: (run(w, i) ** 2).mean()), (None, 0)
        )(weight, ids)

    jaxpr = jax.make_jaxpr(program)(setting.weight, setting.ids).jaxpr
    shapes = [[v.aval.shape for v in c.outvars] for c in conditionals(jaxpr)]
    assert shapes == [[(4, 6, 5)], [(4, 8, 5)]], "vectors, then gradients"


def test_clients_spread_over_devices(setting):
    mesh = jax.make_mesh((1,), ("clients",), (jax.sharding.AxisType.Auto,))
    spread = jax.sharding.PartitionSpec("clients")
    everywhere = jax.sharding.PartitionSpec()
    for width in (FITS, OVERFLOWS):
        run = encoder(setting, width)

        def local(weight, ids, run=run):
            weight = jax.lax.pcast(weight, ("clients",), to="varying")
            return training_loss(run, weight, ids)

        found = jax.jit(
            jax.shard_map(
                local, mesh=mesh, in_specs=(everywhere, spread), out_specs=spread
            )
        )(setting.weight, setting.ids)
        expected = jax.jit(lambda w, i, r=run: training_loss(r, w, i))(
            setting.weight, setting.ids
        )
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected
        )


def test_a_flag_under_vmap_is_one_scalar_for_all():
    flags = jnp.array([True, False])
    assert jax.vmap(all_under_vmap, out_axes=None)(flags).shape == ()
    assert not jax.vmap(all_under_vmap)(flags).any()
    assert jax.vmap(all_under_vmap)(jnp.array([True, True])).all()
    nested = jax.vmap(jax.vmap(all_under_vmap))(jnp.array([[True, True], flags]))
    assert not nested.any()
