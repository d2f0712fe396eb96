"""Running sums against NumPy's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.running import running_sum


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1024, 1025, 40_000])
def test_it_is_numpys(n):
    counts = np.random.default_rng(n).integers(0, 400, n)
    got = jax.jit(lambda x: running_sum(x, 400 * n))(counts)
    assert got.dtype == jnp.int32
    np.testing.assert_array_equal(got, np.cumsum(counts))


def test_it_counts_exactly_as_far_as_it_says_and_beyond():
    counts = np.full(64, 2**18, np.int32)
    counts[0] -= 1
    for most in (2**24 - 1, 2**24):
        got = running_sum(jnp.asarray(counts), most)
        np.testing.assert_array_equal(got, np.cumsum(counts))
    large = np.full(64, 2**24 + 1, np.int32)
    got = running_sum(jnp.asarray(large), 2**31 - 1)
    np.testing.assert_array_equal(got, np.cumsum(large))
