"""Cohorts: their sizes, and that everybody is as likely."""

import jax
import numpy as np
import pytest
import scipy.stats

from fedjax_rec.simulation import sampling


def draws(sampler, count=4000):
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(lambda key: sampler(key, 0).ids)(keys))


def test_everyone():
    assert sampling.everyone(4)(jax.random.key(0), 0).ids.tolist() == [0, 1, 2, 3]


def test_uniform_is_without_replacement_and_even():
    ids = draws(sampling.uniform(10, 4))
    assert (np.diff(ids, axis=1) > 0).all()
    counts = np.bincount(ids.reshape(-1), minlength=10)
    # Draws of a cohort are negatively correlated: chi-square is conservative.
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    pairs = np.bincount(ids[:, 0] * 10 + ids[:, 1], minlength=100)
    assert pairs.max() < 4000


def test_poisson_sizes_are_binomial_up_to_the_cap():
    ids = draws(sampling.poisson(20, 5.0, 20))
    sizes = (ids < 20).sum(1)
    expected = scipy.stats.binom.pmf(np.arange(21), 20, 0.25) * len(sizes)
    observed = np.bincount(sizes, minlength=21)
    keep = expected > 5
    scaled = expected[keep] * observed[keep].sum() / expected[keep].sum()
    assert scipy.stats.chisquare(observed[keep], scaled).pvalue > 1e-3
    assert (ids[:, -1] == 20).mean() > 0.99  # absent slots come last
    capped = draws(sampling.poisson(20, 5.0, 6))
    assert capped.shape[1] == 6
    full = (capped < 20).sum(1) == 6
    assert abs(full.mean() - scipy.stats.binom(20, 0.25).sf(5)) < 0.03
    assert (np.bincount(capped[full].reshape(-1), minlength=20)[:20] > 0).all()


@pytest.mark.parametrize("size", [0, 11])
def test_a_cohort_that_cannot_be(size):
    with pytest.raises(ValueError, match="1 to 10 clients"):
        sampling.uniform(10, size)
    with pytest.raises(ValueError, match=r"mean cohort must lie in \(0, 10\]"):
        sampling.poisson(10, 12.0, 10)
