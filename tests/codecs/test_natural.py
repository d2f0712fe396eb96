"""Natural compression against its definition in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.codecs.natural import NaturalCompression
from fedjax_rec.codecs.quantize import Float32
from fedjax_rec.codecs.sparsify import TopK
from tests.codecs.deltas import coded, sender

CODEC = NaturalCompression()
DRAWS = 20_000


def many(x):
    """`[DRAWS, n]`: the decoded numbers for as many keys."""
    codec, delta = CODEC.plain(), {"w": jnp.asarray(x, jnp.float32)}

    def one(key):
        return codec.decode(codec.encode(delta, (), sender(key))[0])["w"]

    keys = jax.random.split(jax.random.key(1), DRAWS)
    return np.asarray(jax.jit(jax.vmap(one))(keys), np.float64)


def neighbours(x):
    """The powers of two below and above `|x|`, and the odds of the upper one."""
    low = 2.0 ** np.floor(np.log2(np.abs(x)))
    return low, 2 * low, np.abs(x) / low - 1


def test_numbers_become_one_of_their_neighbours_without_bias():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40) * 10.0 ** rng.integers(-20, 20, 40)
    x = x.astype(np.float32).astype(np.float64)
    result = many(x)
    low, high, odds = neighbours(x)
    assert ((np.abs(result) == low) | (np.abs(result) == high)).all()
    assert (np.sign(result) == np.sign(x)).all()
    rounded_up = (np.abs(result) == high).mean(0)
    z = (rounded_up - odds) / np.sqrt(odds * (1 - odds) / DRAWS)
    assert np.abs(z).max() < stats.norm.isf(0.001 / 2 / len(x))  # Bonferroni
    # The odds make the mean exact.
    np.testing.assert_allclose((1 - odds) * low + odds * high, np.abs(x), rtol=1e-12)


def test_the_variance_is_at_most_an_eighth():
    x = np.linspace(1, 4, 31)[:-1]
    variance = np.square(many(x) - x).mean(0) / x**2
    low, high, _ = neighbours(x)
    exact = (x - low) * (high - x) / x**2
    np.testing.assert_allclose(variance, exact, rtol=0.05, atol=1e-12)
    assert exact.max() == pytest.approx(1 / 8, rel=1e-2)
    worst = np.array([4 / 3, -8 / 3])
    error = np.square(many(worst) - worst).mean(0) / worst**2
    np.testing.assert_allclose(error, 1 / 8, rtol=0.03)


def test_powers_of_two_and_zeros_are_exact_in_9_bits():
    x = np.array([0.0, 1.0, -2.0, 0.25, 2.0**-126, -(2.0**127), 0.0])
    assert (many(x) == x).all()
    assert coded(CODEC, x)[1] == 9 * 7
    assert coded(Float32(), x)[1] == 32 * 7


def test_numbers_at_the_ends_of_the_range():
    largest = np.finfo(np.float32).max
    result = many([largest, -largest, 1e-40])
    assert (result[:, 0] == 2.0**127).all()
    assert (result[:, 1] == -(2.0**127)).all()
    assert set(result[:, 2]) <= {0, 2.0**-126}
    # An aggregation rule rejects a client that sends numbers that are not finite.
    assert not np.isfinite(coded(CODEC, [np.nan, np.inf, -np.inf])[0]).any()


def test_it_follows_a_sparsifier():
    x = np.random.default_rng(1).normal(size=100).astype(np.float32)
    result, bits = coded(TopK(fraction=0.1, then=CODEC, feedback="none"), x)
    plain, plain_bits = coded(TopK(fraction=0.1, feedback="none"), x)
    assert plain_bits - bits == 10 * (32 - 9)
    assert (np.flatnonzero(result) == np.flatnonzero(plain)).all()
    real = plain != 0
    low, high, _ = neighbours(plain[real])
    size = np.abs(result[real])
    assert ((size == low) | (size == high)).all()
