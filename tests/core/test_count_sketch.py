"""Count sketches: linear, with unbiased inner products."""

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import count_sketch, rows
from tests.core.sketch_deltas import SIZE, D, I, delta

SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros(20)}
LENGTHS = [I, 0]


def flat(change):
    table = rows.scatter_add(jnp.zeros((I, D)), change["item"])
    return np.concatenate([np.asarray(table).ravel(), np.asarray(change["w"])])


def test_places_are_those_of_the_flattened_parameters():
    assert list(rows.table_lengths(SHARED)) == list(LENGTHS)
    change = delta(0)
    by_place = count_sketch.sketch_of_places(
        jnp.arange(SIZE), jnp.asarray(flat(change)), 3, 50
    )
    np.testing.assert_allclose(
        count_sketch.sketch(change, LENGTHS, 3, 50), by_place, atol=1e-5
    )


def test_a_wide_sketch_gives_every_number_back():
    sketch = count_sketch.sketch(delta(1), LENGTHS, 5, 20_000)
    np.testing.assert_allclose(
        count_sketch.estimate(sketch, SIZE), flat(delta(1)), atol=1e-6
    )


def test_inner_products_and_norms_survive():
    """Over 500 pairs the mean error is 0: sketches of one row, of 64 columns.

    An inner product's variance is at most (|x|^2 |y|^2 + <x, y>^2) / 64.
    """
    errors = []
    for seed in range(500):
        x, y = delta(2 * seed), delta(2 * seed + 1)
        a, b = (count_sketch.sketch(d, LENGTHS, 1, 64)[0] for d in (x, y))
        u, v = flat(x), flat(y)
        spread = np.sqrt((u @ u * (v @ v) + (u @ v) ** 2) / 64)
        errors.append((float(a @ b) - u @ v) / spread)
    # One hash serves all pairs, so collisions repeat: rank-one bounds, not a z-test.
    assert abs(np.mean(errors)) < 0.2
    assert np.mean(np.square(errors)) < 1.3
