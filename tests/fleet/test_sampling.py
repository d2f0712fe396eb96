"""Cohorts: their exact law on small populations, their cost on large ones."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fedjax_rec.fleet import sampling
from fedjax_rec.fleet.sampling import (
    draws_needed,
    enough_draws,
    first_distinct,
    random_order,
)
from tests.fleet.programs import longest


def draws(sampler, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    tables = jax.tree.map(jnp.asarray, sampler.tables)
    one = jax.jit(jax.vmap(lambda key: sampler.sample(tables, key, jnp.int32(0)).ids))
    return np.asarray(one(keys))


def fits(observed, probability):
    """Chi-square of counts, with cells of under 5 expected joined into one."""
    expected = np.asarray(probability) * observed.sum()
    few = expected < 5
    observed = np.append(observed[~few], observed[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    real = expected > 1e-9
    assert observed[~real].sum() == 0
    return scipy.stats.chisquare(observed[real], expected[real]).pvalue > 1e-3


def counts_of_sets(ids, sets):
    index = {s: i for i, s in enumerate(sets)}
    found = np.zeros(len(sets), int)
    for row, count in zip(*np.unique(ids, axis=0, return_counts=True), strict=True):
        found[index[tuple(row.tolist())]] = count
    return found


def successive(weights, size):
    """Probability of each set, summed over the orders in which it may come."""
    total = sum(weights)
    sets = {}
    for order in itertools.permutations(range(len(weights)), size):
        p, left = 1.0, total
        for i in order:
            p, left = p * weights[i] / left, left - weights[i]
        key = tuple(sorted(order))
        sets[key] = sets.get(key, 0.0) + p
    return sets


def test_everyone():
    assert sampling.everyone(4)(jax.random.key(0), 0).ids.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n", "size", "whole"), [(10, 4, True), (60, 2, False)])
def test_every_cohort_is_as_likely_under_uniform(n, size, whole):
    assert (draws_needed(np.arange(size) / n, n) is None) == whole
    ids = draws(sampling.uniform(n, size), 30_000)
    sets = list(itertools.combinations(range(n), size))
    assert fits(counts_of_sets(ids, sets), np.full(len(sets), 1 / len(sets)))


@pytest.mark.parametrize(("n", "cap", "whole"), [(20, 20, True), (600, 13, False)])
def test_poisson_sizes_are_binomial(n, cap, whole):
    assert (draws_needed(np.arange(cap) / n, n) is None) == whole
    ids = draws(sampling.poisson(n, 5.0, cap), 8000)
    sizes = (ids < n).sum(1)
    law: Any = scipy.stats.binom(n, 5.0 / n)
    probability = law.pmf(np.arange(cap + 1))
    probability[cap] = law.sf(cap - 1)
    assert fits(np.bincount(sizes, minlength=cap + 1), probability)
    # Whoever comes is anybody: slots are correlated the harmless way.
    came = np.bincount(ids[ids < n], minlength=n)
    assert scipy.stats.chisquare(came).pvalue > 1e-3
    for row in ids[:200]:
        here = row[row < n]
        assert (np.diff(here) > 0).all()
        assert (row[len(here) :] == n).all()  # absent slots come last


@pytest.mark.parametrize("n", [20, 600])
def test_poisson_is_cut_down_to_its_slots(n):
    capped = draws(sampling.poisson(n, 5.0, 6))
    assert capped.shape[1] == 6
    full = (capped < n).sum(1) == 6
    assert abs(full.mean() - scipy.stats.binom(n, 5.0 / n).sf(5)) < 0.03
    assert (np.bincount(capped[full].reshape(-1), minlength=n)[:20] > 0).all()


def test_weighted_is_successive_sampling_in_a_small_population():
    weights = np.array([1, 2, 0, 4, 8])
    sets = successive(weights, 3)
    ids = draws(sampling.weighted(weights, 3), 30_000)
    assert fits(counts_of_sets(ids, list(sets)), list(sets.values()))
    # Four have a weight: the fifth slot stays empty.
    assert (draws(sampling.weighted(weights, 5), 50) == [0, 1, 3, 4, 5]).all()


def test_weighted_is_successive_sampling_by_draws():
    weights = np.concatenate([np.arange(60), [9, 1, 1, 5]])
    n = len(weights)
    largest = np.sort(weights)[::-1][:2]
    assert draws_needed((np.cumsum(largest) - largest) / weights.sum(), n)
    sets = successive(weights, 2)
    ids = draws(sampling.weighted(weights, 2), 60_000)
    assert (ids != 0).all()  # no examples
    assert fits(counts_of_sets(ids, list(sets)), list(sets.values()))


MILLION = 1_000_000


@pytest.mark.parametrize(
    "sampler",
    [
        sampling.uniform(MILLION, 1000),
        sampling.poisson(MILLION, 1000, 1127),
        sampling.weighted(np.arange(MILLION) % 50, 1000),
    ],
    ids=["uniform", "poisson", "weighted"],
)
def test_nothing_is_as_long_as_a_large_population(sampler):
    arguments = (sampler.tables, jax.random.key(0), jnp.int32(0))
    program = jax.make_jaxpr(sampler.sample)(*arguments)
    assert not [c for c in program.consts if np.size(c) > 10_000]
    assert longest(program.jaxpr) < 10_000
    ids = np.asarray(sampler(jax.random.key(1), 0).ids)
    assert ids.shape[0] >= 1000
    assert len(np.unique(ids[ids < MILLION])) >= 900


@pytest.mark.parametrize("size", [0, 11])
def test_a_cohort_that_cannot_be(size):
    with pytest.raises(ValueError, match="1 to 10 clients"):
        sampling.uniform(10, size)
    with pytest.raises(ValueError, match="1 to 10 clients"):
        sampling.weighted(np.ones(10), size)
    with pytest.raises(ValueError, match=r"mean cohort must lie in \(0, 10\]"):
        sampling.poisson(10, 12.0, 10)


@pytest.mark.parametrize("weights", [[0, 0], [2, -1], [2**31, 2**31]])
def test_weights_that_cannot_be(weights):
    with pytest.raises(ValueError, match=r"sum in \[1, 2\*\*32\)"):
        sampling.weighted(np.array(weights), 1)


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
    assert 1e-5 < scipy.stats.binom(d, 0.5).cdf(29) <= 1e-3
    assert enough_draws(np.zeros(7)) in (7, 8)
    assert enough_draws(np.array([0.0, 1.0])) is None


def test_small_populations_are_put_in_order_as_a_whole():
    assert draws_needed(np.arange(100) / 1600, 1600) is None
    few = draws_needed(np.arange(1000) / 1e6, 10**6)
    assert few is not None
    assert few < 1050
    assert draws_needed(np.full(2, 0.99), 100) is None  # more draws than clients
    order = random_order(jax.random.key(0), 50, None)
    assert sorted(order.tolist()) == list(range(50))
