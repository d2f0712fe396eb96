"""Selection without sorting against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs import select


@jax.jit
def largest(x, k):
    return select.largest(select.magnitude(x), k, len(x))


def kinds(rng, n):
    x = rng.normal(size=n)
    yield x
    yield np.ones(n)  # all equal
    yield np.round(x)  # many equal
    yield np.zeros(n)
    yield np.exp(10 * x)
    yield x * 1e-36 * rng.integers(0, 2, n)  # near the smallest normal number
    yield np.where(rng.random(n) < 0.1, np.inf, x)
    yield np.where(rng.random(n) < 0.1, np.nan, x)


@pytest.mark.parametrize("n", [1, 2, 33, 200, 3000])
def test_the_k_largest_are_those_of_a_stable_sort(n):
    rng = np.random.default_rng(n)
    for x in kinds(rng, n):
        x = x.astype(np.float32)
        size = np.where(np.isnan(x), np.inf, np.abs(x))
        size[size < 2.0**-126] = 0  # subnormal
        order = np.argsort(-size, kind="stable")
        for k in sorted({0, 1, n // 10, n // 2, n - 1, n}):
            at, count = largest(x, k)
            assert int(count) == k
            np.testing.assert_array_equal(at[:k], np.sort(order[:k]))
            assert (np.asarray(at[k:]) == n).all()


def test_the_k_largest_of_many_vectors_at_once():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 2500)).astype(np.float32)
    k = rng.integers(0, 2500, 7)
    at, count = jax.vmap(largest)(x, k)
    np.testing.assert_array_equal(count, k)
    for row in range(7):
        expected = np.sort(np.argsort(-np.abs(x[row]), kind="stable")[: k[row]])
        np.testing.assert_array_equal(at[row, : k[row]], expected)


@pytest.mark.parametrize("density", [0, 0.01, 0.5, 1])
def test_places_are_those_of_flatnonzero(density):
    mask = np.random.default_rng(0).random(1000) < density
    at, count = jax.jit(lambda m: select.places(select.pack(m), 1000, 1000))(mask)
    expected = np.flatnonzero(mask)
    assert int(count) == len(expected)
    padding = np.full(1000 - len(expected), 1000)
    np.testing.assert_array_equal(at, np.concatenate([expected, padding]))
    few, count = select.places(select.pack(jnp.asarray(mask)), 5, 1000)
    assert int(count) == min(5, len(expected))
    np.testing.assert_array_equal(few[: int(count)], expected[:5])
