"""Negatives: exact complements by hand, uniformity by a chi-square test."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from fedjax_rec.data import negatives


@pytest.mark.parametrize("seed", range(5))
def test_outside_enumerates_the_complement(seed):
    rng = np.random.default_rng(seed)
    num_items = 40
    excluded = np.sort(rng.choice(num_items, rng.integers(1, 39), replace=False))
    complement = np.setdiff1d(np.arange(num_items), excluded)
    # The segment sits inside a longer list, as one user's among a client's.
    flat = jnp.asarray(np.concatenate([[3, 9], excluded, [0, 1]]), jnp.int32)
    got = negatives.outside(
        jnp.arange(len(complement)),
        flat,
        jnp.full(len(complement), 2),
        jnp.full(len(complement), len(excluded)),
        len(flat),
    )
    np.testing.assert_array_equal(got, complement)


def test_outside_of_nothing_is_the_identity():
    got = negatives.outside(
        jnp.arange(4), jnp.array([9]), jnp.zeros(4, int), jnp.zeros(4, int), 1
    )
    np.testing.assert_array_equal(got, np.arange(4))


def test_uniform_below_is_the_high_word_of_the_product():
    key = jax.random.key(3)
    bound = jnp.asarray([1, 2, 1682, 100_000, 2**31 - 1], jnp.int32)
    bits = np.asarray(jax.random.bits(key, bound.shape, jnp.uint32)).astype(object)
    expected = [
        int(b) * int(n) >> 32 for b, n in zip(bits, bound.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(negatives.uniform_below(key, bound), expected)


def test_distinct_below_is_uniform_over_ordered_draws():
    bound = jnp.full(60_000, 5)
    drawn = np.asarray(negatives.distinct_below(jax.random.key(0), bound, 3))
    ordered = list(itertools.permutations(range(5), 3))
    index = {triple: i for i, triple in enumerate(ordered)}
    counts = np.bincount([index[tuple(t)] for t in drawn.tolist()], minlength=60)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def one_user(items, m, num_items):
    padded = np.full(m, num_items, np.int32)
    padded[: len(items)] = np.sort(items)
    return {
        "mask": jnp.arange(m) < len(items),
        "exclude": jnp.asarray(padded),
        "exclude_start": jnp.int32(0),
        "exclude_size": jnp.int32(len(items)),
    }


def test_drawn_negatives_are_distinct_and_outside():
    examples = one_user([1, 4, 5, 8], 6, 10)
    items, real = negatives.draw_negatives(jax.random.key(1), examples, 10, 4)
    assert np.asarray(real).tolist() == [[True] * 4] * 4 + [[False] * 4] * 2
    for row in np.asarray(items)[:4]:
        assert len(set(row.tolist())) == 4
        assert set(row.tolist()) <= {0, 2, 3, 6, 7, 9}
    assert (np.asarray(items)[4:] == 10).all()


def test_a_used_up_complement_is_masked_not_invented():
    examples = one_user([0, 1, 2, 4], 4, 5)
    items, real = negatives.draw_negatives(jax.random.key(1), examples, 5, 3)
    assert np.asarray(real).sum(1).tolist() == [1, 1, 1, 1]
    assert (np.asarray(items)[:, 0] == 3).all()
    assert (np.asarray(items)[:, 1:] == 5).all()
