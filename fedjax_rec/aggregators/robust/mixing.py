"""Nearest-neighbour mixing, before any rule."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    assumed_attackers,
    check_share,
)
from fedjax_rec.types import Aggregator, Tree


def mixed(rule: Aggregator, *, share: float = 0.1) -> Aggregator:
    """Replaces each delta by the mean of the `n - f` nearest, itself among them (NNM).

    `f = floor(share n)`. Whatever bound `(f, kappa)` a rule has for deltas that vary
    much, mixing makes `kappa` of the order `f / n`. Equally near ones share the last
    places. Memory: twice `ballot_bytes`, and `2 C^2` numbers, at the end.

    Args:
        rule: an aggregator of this package with a buffer, each client voting on every
            row.
        share: assumed share of attackers.

    Returns:
        An aggregator with `rule`'s state and info.

    Raises:
        ValueError: `share` is not in `[0, 0.5)`; `rule` has no buffer, or lets only
            some vote on a row, which mixing would undo.

    References:
        Allouah et al., Fixing by Mixing, AISTATS 2023, algorithm 2.
    """
    check_share(share)

    def init(shared: Tree, cohort_size: int) -> Ballots:
        acc = rule.init(shared, cohort_size)
        if not isinstance(acc, Ballots):
            raise ValueError(
                "mixed() needs a rule that keeps the cohort's deltas, such as "
                "trimmed_mean(); this one folds them as they come"
            )
        if acc.touched:
            raise ValueError(
                'mixed() needs a rule with voting="dense": a mixture of deltas touches '
                "every row that one of them touched"
            )
        return acc

    def finish(acc: Ballots, state: Tree, shared: Tree):
        return rule.finish(mix(acc, share), state, shared)

    return Aggregator(init, rule.update, finish, rule.start)


def mix(ballots: Ballots, share: float) -> Ballots:
    """The ballots after mixing; absent clients stay absent."""
    present = ballots.voters
    n = present.sum(dtype=jnp.int32)
    keep = jnp.broadcast_to(n - assumed_attackers(n, share), present.shape)
    squared = distances.pairwise_squared(ballots.deltas)
    near = order.smallest(squared, present[:, None], keep).T
    near = jnp.where(present[:, None], near / jnp.maximum(keep, 1)[:, None], 0)

    def leaf(x):
        flat = distances.flat(x)
        mean = jnp.matmul(
            near.astype(x.dtype), flat, precision=jax.lax.Precision.HIGHEST
        )
        return mean.reshape(x.shape)

    return Ballots(
        deltas=jax.tree.map(leaf, ballots.deltas),
        weights=ballots.weights,
        touched=ballots.touched,
        rejected=ballots.rejected,
    )
