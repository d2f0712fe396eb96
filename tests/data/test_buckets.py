"""Bucket widths against exhaustive search."""

import itertools

import numpy as np
import pytest

from fedjax_rec.data import buckets


def padded(sizes, widths, cost):
    width = np.asarray(widths)[np.searchsorted(widths, sizes)]
    return cost(width).sum()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_widths_are_as_good_as_the_best_of_all(seed, limit):
    sizes = np.random.default_rng(seed).integers(1, 12, 30)
    cost = lambda w: np.where(w <= 4, w, -(-w // 4) * 4)  # noqa: E731
    distinct = np.unique(sizes)
    best = min(
        padded(sizes, (*low, distinct[-1]), cost)
        for n in range(min(limit, len(distinct)))
        for low in itertools.combinations(distinct[:-1].tolist(), n)
    )
    widths = buckets.choose_widths(sizes, limit, cost)
    assert len(widths) <= limit
    assert widths == tuple(sorted(widths))
    assert padded(sizes, widths, cost) == best


def test_many_sizes_are_thinned_and_still_cover():
    sizes = np.random.default_rng(0).pareto(1.2, 20_000).astype(int) + 1
    widths = buckets.choose_widths(sizes, 6, max_candidates=64)
    assert widths[-1] >= sizes.max()
    waste = padded(sizes, widths, lambda w: w) / sizes.sum()
    one = sizes.max() * len(sizes) / sizes.sum()
    assert waste < one / 10


def test_empty_clients_are_in_no_bucket():
    assert buckets.bucket_of(np.array([0, 1, 3, 2]), (2, 3)).tolist() == [2, 0, 1, 0]


def test_all_empty():
    assert buckets.choose_widths(np.zeros(3, int), 4) == (1,)


def test_no_buckets_is_refused():
    with pytest.raises(ValueError, match="max_buckets must be at least 1, got 0"):
        buckets.choose_widths(np.array([1]), 0)
