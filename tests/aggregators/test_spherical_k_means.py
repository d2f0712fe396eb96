"""Spherical k-means against the best of all partitions, tried one by one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators.clusters import (
    nearest_center,
    spherical_k_means,
)


def best_by_trial(points, k):
    """The largest `sum_s ||sum of the group's unit vectors||` over all partitions."""
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return max(
        sum(np.linalg.norm(unit[np.array(labels) == s].sum(0)) for s in range(k))
        for labels in itertools.product(range(k), repeat=len(points))
    )


def test_the_best_of_all_partitions_is_found_and_zeros_count_nothing():
    for seed in range(3):
        points = np.random.default_rng(seed).normal(size=(7, 3))
        for k in (2, 3):
            padded = np.concatenate([points[:3], np.zeros((2, 3)), points[3:]])
            centers = spherical_k_means(
                jnp.asarray(padded), k, jax.random.key(seed), tries=16
            )
            order = np.random.default_rng(9).permutation(9)
            again = spherical_k_means(
                jnp.asarray(padded[order]), k, jax.random.key(seed), tries=16
            )
            np.testing.assert_allclose(again, centers, atol=1e-5)
            unit = points / np.linalg.norm(points, axis=1, keepdims=True)
            reached = np.asarray(unit @ centers.T).max(1).sum()
            np.testing.assert_allclose(reached, best_by_trial(points, k), rtol=1e-5)
            np.testing.assert_allclose(
                np.linalg.norm(centers, axis=1), np.ones(k), rtol=1e-5
            )


def test_length_and_repeats_do_not_matter_and_nobody_gives_zeros():
    points = jnp.asarray([[1.0, 0], [5, 0], [0, 2], [0, 2], [0, 1e-3]])
    centers = spherical_k_means(points, 2, jax.random.key(1))
    group = np.asarray(nearest_center(points, centers))
    np.testing.assert_array_equal(group == group[0], [1, 1, 0, 0, 0])
    # Fewer directions than clusters: the third center is a copy, not a NaN.
    more = np.asarray(spherical_k_means(points, 3, jax.random.key(2)))
    np.testing.assert_allclose(np.linalg.norm(more, axis=1), np.ones(3), rtol=1e-6)
    none = spherical_k_means(jnp.zeros((4, 2)), 2, jax.random.key(0))
    np.testing.assert_array_equal(none, np.zeros((2, 2)))
