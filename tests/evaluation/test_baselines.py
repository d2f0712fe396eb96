"""Rankers without a model."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.evaluation.evaluate import by_user, popularity, random_scores

I = 20  # noqa: E741


def test_popularity_counts_and_drops_padding():
    got = popularity(jnp.array([3, 3, 0, I, -1 + I]), I)
    np.testing.assert_array_equal(got, np.bincount([3, 3, 0, I - 1], minlength=I))


def test_random_scores_depend_on_key_and_user_only():
    key = jax.random.key(0)
    users = jnp.array([4, 2, 9])
    batch = jax.vmap(lambda user: random_scores(key, user, I))(users)
    for row, user in zip(batch, users, strict=True):
        np.testing.assert_array_equal(row, random_scores(key, user, I))
    assert not np.array_equal(batch[0], batch[1])
    assert not np.array_equal(batch[0], random_scores(jax.random.key(1), users[0], I))


def test_by_user_gathers_candidates():
    score = by_user(lambda user: jnp.arange(I) * 10.0 + user)
    users, candidates = jnp.array([1, 2]), jnp.array([[0, 19], [7, 7]])
    assert score(users, None).shape == (2, I)
    assert score(users, candidates).tolist() == [[1, 191], [72, 72]]
