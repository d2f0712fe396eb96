"""First distinct draws, and how many draws are enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binom

from fedjax_rec.fleet.distinct import (
    draws_or_whole,
    enough_draws,
    first_distinct,
    random_order,
)


def by_hand(order, size, n, count):
    found = []
    for client in order:
        if client < n and client not in found and len(found) < min(size, count):
            found.append(client)
    return sorted(found) + [n] * (size - len(found))


@pytest.mark.parametrize("count", [0, 2, 99])
def test_first_distinct_is_what_a_loop_finds(count):
    rng = np.random.default_rng(count)
    for _ in range(20):
        order = rng.integers(0, 9, 12)  # 8 is nobody
        ids = first_distinct(jnp.asarray(order, jnp.int32), 5, 8, jnp.int32(count))
        assert ids.tolist() == by_hand(order.tolist(), 5, 8, count)


def test_enough_draws_bounds_the_true_chance_from_above():
    # Two of n clients: all D draws are equal with probability n^(1 - D).
    for n in (3, 40, 1000):
        d = enough_draws(np.arange(2) / n)
        assert d is not None
        exact = 1 + 9 / np.log10(n)
        assert exact <= d <= 1.4 * exact + 2
    # Each draw is new with probability 1/2: C of them among D, by the binomial law.
    d = enough_draws(np.full(30, 0.5), failure=1e-3)
    assert d is not None
    assert 1e-5 < binom(d, 0.5).cdf(29) <= 1e-3
    assert enough_draws(np.zeros(7)) in (7, 8)
    assert enough_draws(np.array([0.0, 1.0])) is None


def test_small_populations_are_put_in_order_as_a_whole():
    assert draws_or_whole(np.arange(100) / 1600, 1600) is None
    few = draws_or_whole(np.arange(1000) / 1e6, 10**6)
    assert few is not None
    assert few < 1050
    assert draws_or_whole(np.full(2, 0.99), 100) is None  # more draws than clients
    order = random_order(jax.random.key(0), 50, None)
    assert sorted(order.tolist()) == list(range(50))
