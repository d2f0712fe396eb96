"""Selection without sorting against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs import select
from fedjax_rec.codecs.order import ascending
from fedjax_rec.codecs.share import share


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
        want = np.sort(np.argsort(-np.abs(x[row]), kind="stable")[: k[row]])
        np.testing.assert_array_equal(at[row, : k[row]], want)


@pytest.mark.parametrize("density", [0, 0.01, 0.5, 1])
def test_places_are_those_of_flatnonzero(density):
    mask = np.random.default_rng(0).random(1000) < density
    at, count = jax.jit(lambda m: select.places(select.pack(m), 1000, 1000))(mask)
    want = np.flatnonzero(mask)
    assert int(count) == len(want)
    np.testing.assert_array_equal(at, np.pad(want, (0, 1000 - len(want)), "constant",
                                             constant_values=1000))  # fmt: skip
    few, count = select.places(select.pack(jnp.asarray(mask)), 5, 1000)
    assert int(count) == min(5, len(want))
    np.testing.assert_array_equal(few[: int(count)], want[:5])


@pytest.mark.parametrize("num_rows", [50, 10_000, 2**30])
def test_rows_in_the_order_of_their_ids(num_rows):
    rng = np.random.default_rng(0)
    ids = rng.choice(min(num_rows, 50), 20, replace=False).astype(np.int32)
    ids = ids * (num_rows // 50)
    ids[[0, 3, 19]] = num_rows
    if num_rows == 2**30:  # id and position do not fit a word: only its shape is traced
        shapes = jax.eval_shape(lambda i: ascending(i, num_rows), ids)
        assert shapes[0].shape == (20,)
        return
    got, from_, count = jax.jit(lambda i: ascending(i, num_rows))(ids)
    assert int(count) == 17
    np.testing.assert_array_equal(got, np.sort(ids))
    np.testing.assert_array_equal(ids[np.asarray(from_[:17])], got[:17])
    assert (np.asarray(from_[17:]) == 20).all()


def test_shares_are_rounded_up_without_error():
    for fraction in (0.1, 0.01, 0.3, 1 / 64, 0.001, 1.0):
        part = share(fraction)
        for count in (0, 1, 10, 30, 64, 100, 3201, 10**8):
            exact = -(-count * part.over // part.under)
            assert part.of(count) == exact
            assert int(jax.jit(part.of)(count)) == exact
    assert [share(0.1).of(n) for n in (10, 11, 100)] == [1, 2, 10]
    with pytest.raises(ValueError, match=r"between 0\.0001 and 1, got 0"):
        share(0)
