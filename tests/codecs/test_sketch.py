"""Count sketches: linear, unbiased inner products, and FetchSGD by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.fetch_sgd import fetch_sgd
from fedjax_rec.codecs.serialize import serialize
from fedjax_rec.codecs.sketch import count_sketch
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import count_sketch as sketches
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders

I, D = 40, 4  # noqa: E741
SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros(20)}
SIZE = I * D + 20
LENGTHS = [I, 0]


def delta(seed, touched=6):
    rng = np.random.default_rng(seed)
    ids = np.append(rng.choice(I, touched), I)  # repeats add up; one is padding
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids, jnp.int32),
            values=jnp.asarray(rng.normal(size=(touched + 1, D)), jnp.float32),
        ),
        "w": jnp.asarray(rng.normal(size=20), jnp.float32),
    }


def flat(some):
    table = rows.scatter_add(jnp.zeros((I, D)), some["item"])
    return np.concatenate([np.asarray(table).ravel(), np.asarray(some["w"])])


def test_places_are_those_of_the_flattened_parameters():
    assert sketches.size_of(SHARED) == SIZE
    assert list(rows.table_lengths(SHARED)) == list(LENGTHS)
    some = delta(0)
    by_place = sketches.sketch_of_places(
        jnp.arange(SIZE), jnp.asarray(flat(some)), 3, 50
    )
    np.testing.assert_allclose(
        sketches.sketch(some, LENGTHS, 3, 50), by_place, atol=1e-5
    )


def test_a_wide_sketch_gives_every_number_back():
    found = sketches.sketch(delta(1), LENGTHS, 5, 20_000)
    np.testing.assert_allclose(
        sketches.estimate(found, SIZE), flat(delta(1)), atol=1e-6
    )


def test_inner_products_and_norms_survive():
    """Over 500 pairs the mean error is 0: sketches of one row, of 64 columns.

    An inner product's variance is at most (|x|^2 |y|^2 + <x, y>^2) / 64.
    """
    errors = []
    for seed in range(500):
        x, y = delta(2 * seed), delta(2 * seed + 1)
        a, b = (sketches.sketch(d, LENGTHS, 1, 64)[0] for d in (x, y))
        u, v = flat(x), flat(y)
        spread = np.sqrt((u @ u * (v @ v) + (u @ v) ** 2) / 64)
        errors.append((float(a @ b) - u @ v) / spread)
    # One hash serves all pairs, so collisions repeat: rank-one bounds, not a z-test.
    assert abs(np.mean(errors)) < 0.2
    assert np.mean(np.square(errors)) < 1.3


def test_encoding_commutes_with_sums_and_costs_its_size():
    codec = count_sketch(SHARED, repeats=3, columns=70)
    encode = jax.jit(lambda d: codec.encode(d, (), jax.random.key(0))[0])
    messages = [encode(delta(seed)) for seed in range(4)]
    whole = sketches.sketch_of_places(
        jnp.arange(SIZE), jnp.asarray(sum(flat(delta(s)) for s in range(4))), 3, 70
    )
    total = sum(codec.decode(m)["sketch"] for m in messages)
    np.testing.assert_allclose(total, whole, atol=1e-4)
    assert int(num_bits(messages[0])) == 3 * 70 * 32
    assert len(serialize(messages[0])) == 3 * 70 * 4


def fold(aggregator, codec, seeds, weights, state):
    acc = aggregator.init(SHARED, len(seeds))
    message = [codec.encode(delta(s), (), jax.random.key(0))[0] for s in seeds]
    sent = jax.tree.map(lambda *x: jnp.stack(x), *map(codec.decode, message))
    slots = jnp.arange(len(seeds))
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(len(seeds)))
    acc = aggregator.update(acc, sent, jnp.asarray(weights, jnp.float32), senders)
    return aggregator.finish(acc, state, SHARED)


def test_fetch_sgd_by_hand():
    """Wide sketches are exact: momentum, error and top-k on the vectors themselves."""
    size: dict[str, Any] = {"repeats": 5, "columns": 20_000}
    aggregator = fetch_sgd(0.1, momentum=0.5, **size)
    codec = count_sketch(SHARED, **size)
    state = aggregator.start(SHARED)
    moved = error = np.zeros(SIZE)
    for step in range(4):
        seeds, weights = [10 * step, 10 * step + 1, 99], [1.0, 3.0, 0.0]
        got, state, info = fold(aggregator, codec, seeds, weights, state)
        mean = (flat(delta(seeds[0])) + 3 * flat(delta(seeds[1]))) / 4
        moved = 0.5 * moved + mean
        error = error + moved
        top = np.argsort(-np.abs(error))[:18]
        expected = np.zeros(SIZE)
        expected[top] = error[top]
        error = error - expected
        found = np.concatenate([np.ravel(got["item"].values), got["w"]])
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert float(info["unapplied"]) == pytest.approx(
        np.linalg.norm(error) / np.linalg.norm(moved), rel=0.05
    )


def test_everything_moves_at_a_share_of_one_without_momentum():
    size: dict[str, Any] = {"repeats": 5, "columns": 20_000}
    aggregator, codec = (
        fetch_sgd(1.0, momentum=0.0, **size),
        count_sketch(SHARED, **size),
    )
    got, state, _ = fold(
        aggregator, codec, [3, 4], [1.0, 1.0], aggregator.start(SHARED)
    )
    mean = (flat(delta(3)) + flat(delta(4))) / 2
    found = np.concatenate([np.ravel(got["item"].values), got["w"]])
    np.testing.assert_allclose(found, mean, atol=1e-5)
    np.testing.assert_allclose(state.error, 0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share=0.0: expected a share above 0"),
        ({"momentum": 1.0}, "momentum=1.0: expected 0 up to, and below, 1"),
    ],
)
def test_fetch_sgd_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        fetch_sgd(**options)
