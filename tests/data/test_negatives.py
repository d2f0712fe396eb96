"""Negatives: exact complements by hand, uniformity by a chi-square test."""

import dataclasses
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


def test_negatives_of_a_pool_are_uniform_over_what_the_client_lacks_of_it():
    """Through the layout: the client holds 3 of a pool of 8 among 30 items."""
    from fedjax_rec.data.clients import make_client_data
    from fedjax_rec.data.interactions import Entities, make_interactions
    from fedjax_rec.data.partition import IID, PerUser

    pool = np.array([2, 3, 7, 11, 12, 20, 28, 29])
    train = make_interactions(
        user=np.array([0, 0, 0, 1, 1]),
        item=np.array([28, 3, 11, 2, 29]),
        users=Entities(ids=["a", "b"]),
        items=Entities(ids=[f"i{i}" for i in range(30)]),
    )
    free = [{2, 7, 12, 20, 29}, {3, 7, 11, 12, 20, 28}]
    for part in (PerUser().partition(train), IID(num_clients=1).partition(train)):
        data = make_client_data(train, part, pool=pool, max_buckets=1)
        draws = [0, 0]
        for client in range(part.num_clients):
            examples = data.examples(jnp.int32(client), 0)
            users = np.asarray(examples["user"])[np.asarray(examples["mask"])]
            keys = jax.random.split(jax.random.key(client), 4000)
            draw = jax.vmap(lambda k, e=examples: negatives.draw_negatives(k, e, 30, 2))
            items, real = map(np.asarray, draw(keys))
            for at, user in enumerate(users):
                assert real[:, at].all()
                pairs = items[:, at]
                assert set(pairs.ravel().tolist()) == free[user]
                pairs = np.sort(pairs, axis=1) @ [100, 1]
                _, counts = np.unique(pairs, return_counts=True)
                size = len(free[user])
                assert len(counts) == size * (size - 1) // 2
                assert scipy.stats.chisquare(counts).pvalue > 1e-3
                draws[user] += 1
            padded = ~np.asarray(examples["mask"])
            assert (items[:, padded] == 30).all()
        assert draws == [3, 2]
    # Of what is excluded beside, that outside the pool needs no place in it.
    also = train.take(np.array([3, 4]))
    also = dataclasses.replace(also, item=np.array([12, 17], np.int32))
    data = make_client_data(
        train, PerUser().partition(train), also_excluded=(also,), pool=pool
    )
    examples = data.examples(jnp.int32(1), int(data.buckets[1]))
    size = int(examples["exclude_size"])
    assert pool[np.asarray(examples["exclude"])[:size]].tolist() == [2, 12, 29]
    with pytest.raises(ValueError, match="pool leaves out items that clients hold"):
        make_client_data(train, PerUser().partition(train), pool=pool[1:])


def test_a_pool_smaller_than_the_draw_is_masked():
    examples = {
        **one_user([0, 2], 3, 30),
        "pool": jnp.asarray([5, 9, 13], jnp.int32),
    }  # positions 0 and 2 of the pool are the client's: only 9 is left
    items, real = negatives.draw_negatives(jax.random.key(1), examples, 30, 2)
    assert np.asarray(items).tolist() == [[9, 30], [9, 30], [30, 30]]
    assert np.asarray(real).tolist() == [[True, False]] * 2 + [[False, False]]
