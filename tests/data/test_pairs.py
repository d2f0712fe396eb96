"""What a client trains on, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.data.pairs import text_pairs

ITEMS, NEGATIVES = 10, 2
# Two users on one client, by user and then in time, and a place of padding.
ITEM = [4, 1, 7, 0, 2, ITEMS]
USER = [3, 3, 3, 5, 5, 8]


def examples(**more):
    return {
        "item": jnp.asarray(ITEM, jnp.int32),
        "user": jnp.asarray(USER, jnp.int32),
        "rating": jnp.ones(6),
        "mask": jnp.arange(6) < 5,
        "exclude": jnp.asarray([1, 4, 7, 0, 2, ITEMS], jnp.int32),
        "exclude_start": jnp.asarray([0, 0, 0, 3, 3, 0], jnp.int32),
        "exclude_size": jnp.asarray([3, 3, 3, 2, 2, 0], jnp.int32),
        **more,
    }


def test_histories_look_back_within_the_user_only():
    draw = text_pairs(ITEMS, NEGATIVES, history=2)
    pairs = jax.jit(draw)(examples(), jax.random.key(0))
    assert "log_q" not in pairs
    none = ITEMS
    expected = [
        [none, none],
        [4, none],
        [1, 4],  # the latest first
        [none, none],  # another user's first
        [0, none],
    ]
    history = np.asarray(pairs["history"])
    assert history.shape == (6 * (1 + NEGATIVES), 2)
    mask = np.asarray(pairs["mask"]).reshape(6, -1)
    assert mask.tolist() == [[True] * 3] * 5 + [[False] * 3]
    for at, wanted in enumerate(expected):
        # A negative has the history of its positive.
        assert history[3 * at : 3 * at + 3].tolist() == [wanted] * 3
    # No history holds its positive or what came after it.
    positives = np.asarray(pairs["text"])[::3]
    assert positives.tolist() == ITEM
    assert not (history[::3][:5] == positives[:5, None]).any()
    np.testing.assert_array_equal(pairs["text"], pairs["item"])
    labels = np.asarray(pairs["label"]).reshape(6, -1)
    assert labels.tolist() == [[1, 0, 0]] * 6
    negative = np.asarray(pairs["text"]).reshape(6, -1)[:, 1:]
    assert not np.isin(negative[:3], [1, 4, 7]).any()
    assert not np.isin(negative[3:5], [0, 2]).any()
    assert (negative[5] == ITEMS).all()


@pytest.mark.parametrize(
    ("pool", "room"), [(None, [7, 7, 7, 8, 8]), (range(9), [6, 6, 6, 7, 7])]
)
def test_log_q_is_how_often_a_negative_is_drawn(pool, room):
    more = {} if pool is None else {"pool": jnp.arange(len(pool))}
    draw = jax.jit(text_pairs(ITEMS, NEGATIVES, log_q=True))
    keys = jax.random.split(jax.random.key(0), 3000)
    pairs = jax.vmap(lambda k: draw(examples(**more), k))(keys)
    assert "history" not in pairs
    log_q = np.asarray(pairs["log_q"])[0].reshape(6, -1)
    np.testing.assert_allclose(log_q[:5, 1:].T, np.log(2 / np.array([room] * 2)), 1e-6)
    # The share of draws in which an item is among the negatives of a positive.
    drawn = np.asarray(pairs["text"]).reshape(3000, 6, -1)[:, :, 1:]
    for at in range(5):
        free = sorted(set(drawn[:, at].ravel().tolist()))
        assert len(free) == room[at]
        share = np.array([(drawn[:, at] == i).any(-1).mean() for i in free])
        assert np.abs(share - np.exp(log_q[at, 1])).max() < 0.05
    # Padding excludes no item.
    empty = ITEMS if pool is None else len(pool)
    np.testing.assert_allclose(log_q[5], np.log(2 / empty), rtol=1e-6)


def test_a_negative_that_is_always_drawn_counts_once():
    full = examples(exclude_size=jnp.full(6, ITEMS - 1, jnp.int32))
    draw = text_pairs(ITEMS, NEGATIVES, log_q=True)
    np.testing.assert_allclose(draw(full, jax.random.key(0))["log_q"], 0, atol=1e-7)
