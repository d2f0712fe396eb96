"""FetchSGD: sketches that add up, and the server's steps by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.algorithms.implicit import PFedRec
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import count_sketch, rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Senders, Stack
from fedjax_rec.testing.wire_stream import serialize
from fedjax_rec.wrappers.fetch_sgd import FetchSGD
from tests.codecs.deltas import sender
from tests.core.sketch_deltas import SIZE, D, I, delta

SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros(20)}
WIDE = 20_000
"""Columns of a sketch without collisions."""


def flat(change):
    table = change["item"]
    if rows.is_rows(table):
        table = rows.scatter_add(jnp.zeros((I, D)), table)
    else:
        table = table.values
    return np.concatenate([np.asarray(table).ravel(), np.asarray(change["w"])])


def encode(transform, change):
    return transform.encode(change, (), sender(jax.random.key(0)))[0]


def test_encoding_commutes_with_sums_and_costs_its_size():
    transform = FetchSGD(repeats=3, columns=70).sketches(SHARED)
    messages = [
        jax.jit(lambda d: encode(transform, d))(delta(seed)) for seed in range(4)
    ]
    whole = count_sketch.sketch_of_places(
        jnp.arange(SIZE), jnp.asarray(sum(flat(delta(s)) for s in range(4))), 3, 70
    )
    total = sum(transform.decode(m)["sketch"] for m in messages)
    np.testing.assert_allclose(total, whole, atol=1e-4)
    assert int(num_bits(messages[0])) == 3 * 70 * 32
    assert len(serialize(messages[0])) == 3 * 70 * 4


def fold(settings, seeds, weights, state=None, shared=SHARED, fixed=()):
    sent = {name: part for name, part in shared.items() if name not in fixed}
    aggregator, transform = settings.aggregator(fixed), settings.sketches(sent)
    state = aggregator.start(shared) if state is None else state
    messages = [encode(transform, delta(s)) for s in seeds]
    decoded = jax.tree.map(lambda *x: jnp.stack(x), *map(transform.decode, messages))
    slots = jnp.arange(len(seeds))
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(len(seeds)))
    acc = aggregator.init(shared, len(seeds))
    acc = aggregator.update(acc, decoded, jnp.asarray(weights, jnp.float32), senders)
    return aggregator.finish(acc, state, shared)


@pytest.mark.parametrize("remove", ["zero", "subtract"])
@pytest.mark.parametrize("uniform", [False, True])
def test_fetch_sgd_by_hand(uniform, remove):
    """Wide sketches are exact: momentum, error and top-k on the vectors themselves."""
    settings = FetchSGD(
        share=0.1, momentum=0.5, columns=WIDE, uniform=uniform, remove=remove
    )
    state, moved, error = None, np.zeros(SIZE), np.zeros(SIZE)
    for step in range(4):
        seeds, weights = [10 * step, 10 * step + 1, 99], [1.0, 3.0, 0.0]
        result, state, info = fold(settings, seeds, weights, state)
        share = 0.5 if uniform else 0.25
        mean = share * flat(delta(seeds[0])) + (1 - share) * flat(delta(seeds[1]))
        moved = 0.5 * moved + mean
        error = error + moved
        top = np.argsort(-np.abs(error))[:18]
        expected = np.zeros(SIZE)
        expected[top] = error[top]
        error = error - expected
        size = np.linalg.norm(moved)
        if remove == "zero":  # momentum factor masking
            moved[top] = 0
        np.testing.assert_allclose(flat(result), expected, atol=1e-4)
    assert float(info["unapplied"]) == pytest.approx(
        np.linalg.norm(error) / size, rel=0.05
    )


@pytest.mark.parametrize("remove", ["zero", "subtract"])
def test_buckets_of_the_update_in_narrow_sketches(remove):
    """In NumPy, from the estimates: all of a bucket goes, not only the update."""
    settings = FetchSGD(share=0.1, momentum=0.9, columns=40, remove=remove)
    _, before, _ = fold(settings, [1], [1.0])
    result, after, _ = fold(settings, [2], [1.0], before)
    sketch = FetchSGD(columns=40).sketches(SHARED)
    new = np.asarray(sketch.decode(encode(sketch, delta(2)))["sketch"])
    momentum = 0.9 * np.asarray(before["momentum"]) + new
    error = np.asarray(before["error"]) + momentum
    every = np.asarray(count_sketch.estimate(jnp.asarray(error), SIZE))
    (top,) = np.nonzero(flat(result))
    np.testing.assert_allclose(flat(result)[top], every[top], rtol=1e-5)
    largest = np.sort(np.abs(every))[-18:]
    np.testing.assert_allclose(np.sort(np.abs(every[top])), largest, rtol=1e-5)
    places, values = jnp.asarray(top), jnp.asarray(every[top])
    each = [
        count_sketch.sketch_of_places(places[i : i + 1], values[i : i + 1], 5, 40)
        for i in range(18)
    ]
    if remove == "subtract":
        error -= sum(map(np.asarray, each))
    else:
        hit = np.any([np.asarray(x) != 0 for x in each], 0)
        assert 0.2 < hit.mean() < 0.5
        momentum[hit] = error[hit] = 0
    np.testing.assert_allclose(after["momentum"], momentum, atol=1e-5)
    np.testing.assert_allclose(after["error"], error, atol=1e-4)


def test_a_round_without_messages_changes_nothing():
    settings = FetchSGD(share=0.1, momentum=0.9, columns=WIDE)
    _, before, _ = fold(settings, [1, 2], [1.0, 1.0])
    assert np.linalg.norm(before["momentum"]) > 1
    result, after, _ = fold(settings, [3, 4], [0.0, 0.0], before)
    np.testing.assert_array_equal(flat(result), 0)
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


def test_everything_moves_at_a_share_of_one_without_momentum():
    settings = FetchSGD(share=1.0, momentum=0.0, columns=WIDE)
    result, state, _ = fold(settings, [3, 4], [1.0, 1.0])
    mean = (flat(delta(3)) + flat(delta(4))) / 2
    np.testing.assert_allclose(flat(result), mean, atol=1e-5)
    np.testing.assert_allclose(state["error"], 0, atol=1e-5)


def test_groups_that_are_not_sent_do_not_move():
    settings = FetchSGD(share=1.0, columns=WIDE)
    shared = {"base": jnp.ones(7), **SHARED}  # comes before the groups that are sent
    result, _, _ = fold(settings, [3], [1.0], shared=shared, fixed=("base",))
    np.testing.assert_array_equal(result["base"], np.zeros(7))
    np.testing.assert_allclose(flat(result), flat(delta(3)), atol=1e-5)


def context(recipe=None):
    return Context(
        num_items=I,
        num_users=2,
        num_clients=2,
        cohort_size=2,
        dtype=jnp.float32,
        examples=np.ones(2),
        recipe=recipe,
    )


def test_a_system_gets_its_transform_and_its_rule():
    recipe = PFedRec(dim=D).build(context())
    wrapped = FetchSGD().build(context(recipe))
    assert wrapped.transform is not None
    message = encode(wrapped.transform, {"item": delta(0)["item"]})
    assert int(num_bits(message)) == 32 * 5 * 10_000
    assert wrapped.aggregator.start(SHARED)["error"].shape == (5, 10_000)
    with pytest.raises(ValueError, match="without a message transform"):
        FetchSGD().build(context(wrapped))
    model = recipe.model
    several = Stack(model, lambda params: params, lambda params, personal: params)
    stack = model._replace(stack=several)
    with pytest.raises(ValueError, match="expected a system with one model"):
        FetchSGD().build(context(recipe._replace(model=stack)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share=0\.0: expected a share in \(0, 1\]"),
        ({"share": 1.5}, r"share=1\.5: expected a share in \(0, 1\]"),
        ({"momentum": 1.0}, r"momentum=1\.0: expected a number in \[0, 1\)"),
        ({"remove": "mask"}, "remove='mask', expected zero or subtract"),
        ({"columns": 0}, "columns must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
    ],
)
def test_fetch_sgd_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        FetchSGD(**options)
