"""Rankers without a model, which every result is compared with."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array

UserScorer = Callable[[Array], Array]
"""`(user scalar) -> [I]`: one user's scores of all items."""

ScoreFn = Callable[[Array, Array | None], Array]
"""`(users [V], candidates [V, K] or None) -> [V, K]`, or `[V, I]` for `None`."""


def popularity(train_items: Array, num_items: int) -> Array:
    """Scores an item by its number of training interactions.

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
    """`[I]` uniform scores of one user, a function of key and user only."""
    return jax.random.uniform(jax.random.fold_in(key, user), (num_items,))


def by_user(scorer: UserScorer) -> ScoreFn:
    """Turns a scorer of one user's whole catalogue into a `ScoreFn`."""

    def score(users: Array, candidates: Array | None) -> Array:
        scores = jax.vmap(scorer)(users)
        if candidates is None:
            return scores
        return jnp.take_along_axis(scores, candidates, axis=-1)

    return score
