"""The geometric median, by smoothed Weiszfeld steps."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec import rows
from fedjax_rec.aggregators.robust import distances
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    buffered,
    check_share,
    weighted_sum,
)
from fedjax_rec.aggregators.robust.breakdown import majority_tolerates, row_report
from fedjax_rec.aggregators.robust.coordinates import diluted
from fedjax_rec.types import Aggregator, Array, Tree


def geometric_median(
    *,
    steps: int = 8,
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
        steps: of Weiszfeld; each reads the buffer twice.
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
        del shared
        present = ballots.voters
        alpha = ballots.weights if examples else present.astype(ballots.weights.dtype)
        if voting == "dense":
            return weiszfeld(ballots, alpha, steps, smoothing), state, {}
        touched = iter(ballots.touched)
        reports = []

        def by_row(leaf):
            if not (rows.is_table(leaf) and leaf.per_row):
                return None
            voters = (next(touched) > 0) & present[:, None]
            counts = voters.sum(0, dtype=jnp.int32)
            reports.append(counts)
            weights = jnp.where(voters, alpha[:, None], 0)
            values = row_medians(leaf.values, weights, steps, smoothing)
            if voting == "diluted":
                values = diluted(values, counts, present)
            return dataclasses.replace(leaf, values=values)

        tables = jax.tree.map(by_row, ballots.deltas, is_leaf=rows.is_table)
        rest = jax.tree.map(
            lambda leaf: None if rows.is_table(leaf) and leaf.per_row else leaf,
            ballots.deltas,
            is_leaf=rows.is_table,
        )
        rest = weiszfeld(
            dataclasses.replace(ballots, deltas=rest), alpha, steps, smoothing
        )
        info = row_report(reports, majority_tolerates, share, len(present))
        return rows.merge_tables(tables, rest), state, info

    return buffered(finish, voting=voting)


def weiszfeld(ballots: Ballots, alpha: Array, steps: int, smoothing: float) -> Tree:
    """The geometric median of whole deltas, weighted by `alpha` `[C]`."""

    def step(_, z):
        far = jnp.sqrt(distances.squared_to(ballots.deltas, z))
        beta = alpha / jnp.maximum(far, smoothing)
        total = beta.sum()
        return weighted_sum(ballots, beta / jnp.where(total > 0, total, 1))

    zero = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), ballots.deltas)
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
    flat = x.reshape(*x.shape[:2], -1)

    def step(_, z):
        far = jnp.sqrt(jnp.square(flat - z).sum(-1))
        beta = weights / jnp.maximum(far, smoothing)
        total = beta.sum(0)
        beta = beta / jnp.where(total > 0, total, 1)
        return (beta[:, :, None] * flat).sum(0)

    zero = jnp.zeros(flat.shape[1:], x.dtype)
    return jax.lax.fori_loop(0, steps, step, zero).reshape(x.shape[1:])
