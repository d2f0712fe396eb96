"""Rankers without a model."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.evaluation.baselines import (
    baseline_score_fns,
    by_user,
    draw_count,
    popularity,
    random_scores,
)

I = 20  # noqa: E741


def draw(round_, user):
    # 6 draws, of which one is padding.
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), round_), user)
    return jax.random.randint(key, (6,), 0, I).at[2].set(I)


def test_popularity_counts_and_drops_padding():
    got = popularity(jnp.array([3, 3, 0, I, -1 + I]), I)
    np.testing.assert_array_equal(got, np.bincount([3, 3, 0, I - 1], minlength=I))


def test_draw_count_is_minus_the_histogram():
    for rounds in (0, 1, 7):
        score = jax.vmap(draw_count(draw, rounds, I))
        got = score(jnp.arange(3))
        for user in range(3):
            items = [draw(r, user) for r in range(rounds)]
            drawn = np.concatenate([np.zeros(0, int), *map(np.asarray, items)])
            expected = np.bincount(drawn.astype(int), minlength=I + 1)[:I]
            np.testing.assert_array_equal(got[user], -expected)


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


def test_the_three_beside_every_result():
    scorers = baseline_score_fns(
        train_items=jnp.array([1, 1]),
        draw=draw,
        rounds=2,
        num_items=I,
        key=jax.random.key(0),
    )
    assert list(scorers) == ["random", "popularity", "draw_count"]
    for score in scorers.values():
        assert score(jnp.arange(4), None).shape == (4, I)
        assert score(jnp.arange(4), jnp.zeros((4, 3), jnp.int32)).shape == (4, 3)
