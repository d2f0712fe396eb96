"""Rankers without a model, shown beside every result: what a result must beat."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.types import Array

UserScorer = Callable[[Array], Array]
"""`(user scalar) -> [I]`: one user's score of every item."""

ScoreFn = Callable[[Array, Array | None], Array]
"""`(users [V], candidates [V, K] or None) -> [V, K]`, or `[V, I]` for `None`."""


def popularity(train_items: Array, num_items: int) -> Array:
    """Scores an item by how often it occurs in training.

    Args:
        train_items: `[n]` item ids; those outside `[0, I)` are padding.
        num_items: `I`.

    Returns:
        `[I]` float32 counts.

    >>> popularity(jnp.array([2, 0, 2]), 3)
    Array([1., 0., 2.], dtype=float32)
    """
    counts = jnp.zeros(num_items, jnp.int32)
    counts = counts.at[jnp.asarray(train_items)].add(1, mode="drop")
    return counts.astype(jnp.float32)


def random_scores(key: Array, user: Array, num_items: int) -> Array:
    """`[I]` uniform scores of one user, which depend on nothing but key and user."""
    return jax.random.uniform(jax.random.fold_in(key, user), (num_items,))


def draw_count(
    draw: Callable[[Array, Array], Array], rounds: int | Array, num_items: int
) -> UserScorer:
    """The leak detector: scores an item by minus the times it was a negative.

    No model is involved. If negatives avoid held-out items, exactly those are never
    drawn, and this ranker rises towards HR = 1 with the rounds; over a clean pool it
    stays at chance. A model trained on the same negatives can learn the same.

    Args:
        draw: `(round, user) -> [D]` the negatives one client drew in a round, padded
            with `I`. Must be what training draws, so the same function and key.
        rounds: how many rounds were trained; may be traced.
        num_items: `I`.

    Returns:
        `(user) -> [I]` float32 scores, for one user; the caller `vmap`s over users.
    """

    def score(user: Array) -> Array:
        def add(round_: Array, counts: Array) -> Array:
            return counts.at[draw(round_, user)].add(1, mode="drop")

        counts = jnp.zeros(num_items, jnp.int32)
        counts = jax.lax.fori_loop(0, rounds, add, counts)
        return -counts.astype(jnp.float32)

    return score


def by_user(scorer: UserScorer) -> ScoreFn:
    """Lifts a scorer of one user's whole catalogue to what `evaluate` takes."""

    def score(users: Array, candidates: Array | None) -> Array:
        scores = jax.vmap(scorer)(users)
        if candidates is None:
            return scores
        return jnp.take_along_axis(scores, candidates, axis=-1)

    return score


def baseline_score_fns(
    *,
    train_items: Array,
    draw: Callable[[Array, Array], Array],
    rounds: int | Array,
    num_items: int,
    key: Array,
) -> dict[str, ScoreFn]:
    """The three rankers every report shows: `random`, `popularity`, `draw_count`.

    Args:
        train_items: `[n]` item ids of the training interactions.
        draw: `(round, user) -> [D]` training negatives, padded with `I`.
        rounds: trained so far.
        num_items: `I`.
        key: of the random ranker.

    Returns:
        Name to what `evaluate` takes.
    """
    popular = popularity(train_items, num_items)
    return {
        "random": by_user(lambda user: random_scores(key, user, num_items)),
        "popularity": by_user(lambda user: popular),
        "draw_count": by_user(draw_count(draw, rounds, num_items)),
    }
