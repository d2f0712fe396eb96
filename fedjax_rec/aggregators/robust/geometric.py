"""The geometric median, by smoothed Weiszfeld steps."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    buffered,
    check_share,
)
from fedjax_rec.aggregators.robust.breakdown import majority_tolerates
from fedjax_rec.aggregators.robust.row_ballots import RowBallots, vote
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def geometric_median(
    *,
    steps: int = 4,
    smoothing: float = 1e-6,
    examples: bool = False,
    voting: Voting = "dense",
    share: float = 0.1,
) -> Aggregator:
    """The point with the least sum of distances to the clients' deltas (RFA).

    `argmin_z sum_c alpha_c |z - delta_c|`, by `steps` of
    `z <- sum_c beta_c delta_c / sum_c beta_c`, `beta_c = alpha_c / max(nu, |z -
    delta_c|)`. The first `z` is zero, the model as it is: the mean, where others
    start, is for an attacker to choose. Memory: `ballot_bytes`.

    With `voting` by some, the dense leaves together have one median, and each row of a
    table one of its own, among the clients that touched it.

    Args:
        steps: of Weiszfeld; each reads the buffer once.
        smoothing: `nu`.
        examples: weigh clients by their examples, as published, not one vote each. An
            attacker can then lie about its number.
        voting: who votes on a row of a table.
        share: assumed share of attackers, of which only the report makes use.

    Returns:
        An aggregator. `info` holds `breakdown.row_report` where only some vote on a
        row.

    Raises:
        ValueError: `steps` or `smoothing` is not positive, or `share` not in
            `[0, 0.5)`.

    References:
        Pillutla et al., Robust Aggregation for Federated Learning, IEEE Transactions
        on Signal Processing 2022, algorithm 2.
    """
    check_share(share)
    if steps < 1 or smoothing <= 0:
        raise ValueError(
            f"steps must be at least 1 and smoothing positive, got {steps} and "
            f"{smoothing}"
        )

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        present = ballots.voters
        alpha = ballots.weights if examples else present.astype(ballots.weights.dtype)

        def whole(part: Ballots):
            return weiszfeld(part.deltas, alpha, steps, smoothing), {}

        def row(table: RowBallots):
            weights = jnp.where(table.voters, alpha[:, None], 0)
            return row_medians(table.x, weights, steps, smoothing)

        tolerates = majority_tolerates
        delta, info = vote(ballots, shared, voting, whole, row, tolerates, share)
        return delta, state, info

    return buffered(finish, voting=voting)


def weiszfeld(deltas: Tree, alpha: Array, steps: int, smoothing: float) -> Tree:
    """The geometric median of whole deltas.

    A client's distance and its part of the next point are computed together, while its
    delta is in the cache.

    Args:
        deltas: leaves `[C, ...]`.
        alpha: `[C]`, the clients' weights.
        steps: of Weiszfeld.
        smoothing: least distance.
    """
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), deltas)

    def step(_, z):
        def visit(c, carry):
            total, beta_sum = carry
            mine = jax.tree.map(lambda x: x[c], deltas)
            squares = jax.tree.map(lambda x, at: jnp.square(x - at).sum(), mine, z)
            far = jnp.sqrt(sum(jax.tree.leaves(squares), jnp.zeros((), alpha.dtype)))
            beta = alpha[c] / jnp.maximum(far, smoothing)
            total = jax.tree.map(lambda t, x: t + beta.astype(x.dtype) * x, total, mine)
            return total, beta_sum + beta

        none = jnp.zeros((), alpha.dtype)
        total, beta_sum = jax.lax.fori_loop(0, len(alpha), visit, (zero, none))
        over = jnp.where(beta_sum > 0, beta_sum, 1)
        return jax.tree.map(lambda x: x / over.astype(x.dtype), total)

    return jax.lax.fori_loop(0, steps, step, zero)


def row_medians(x: Array, weights: Array, steps: int, smoothing: float) -> Array:
    """The geometric median of each row over its own voters.

    Args:
        x: `[C, I, ...]`.
        weights: `[C, I]`, zero for who does not vote.
        steps: of Weiszfeld.
        smoothing: least distance.

    Returns:
        `[I, ...]`, zero for rows without a voter.
    """

    def rule(block, of):
        def step(_, z):
            far = jnp.sqrt(jnp.square(block - z).sum(-1))
            beta = of / jnp.maximum(far, smoothing)
            total = beta.sum(0)
            beta = beta / jnp.where(total > 0, total, 1)
            return (beta[:, :, None] * block).sum(0)

        return jax.lax.fori_loop(0, steps, step, jnp.zeros_like(block[0]))

    flat = x.reshape(*x.shape[:2], -1)
    return order.rowwise(rule, flat, weights).reshape(x.shape[1:])
