"""Nearest-neighbour mixing, before any rule."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    assumed_attackers,
    check_share,
)
from fedjax_rec.aggregators.robust.breakdown import row_report
from fedjax_rec.aggregators.robust.few_voters import (
    ballot_by_ballot,
    pairwise_squared,
)
from fedjax_rec.aggregators.robust.row_ballots import (
    joint,
    row_ballots,
    with_rows,
)
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def mixed(rule: Aggregator, *, share: float = 0.1) -> Aggregator:
    """Replaces each delta by the mean of the `n - f` nearest, itself among them (NNM).

    `f = floor(share n)`. Whatever bound `(f, kappa)` a rule has for deltas that vary
    much, mixing makes `kappa` of the order `f / n`. Equally near ones share the last
    places. Memory: twice `ballot_bytes`, and `2 C^2` numbers, at the end.

    Where `rule` lets only some vote on a row, so does mixing: each row of a voter
    becomes the mean of the `v - floor(share v)` nearest rows of the row's `v` voters,
    and what all vote on is mixed jointly. A mixture of whole deltas would touch every
    row that one of them touched.

    Args:
        rule: an aggregator of this package with a buffer.
        share: assumed share of attackers.

    Returns:
        An aggregator with `rule`'s state and info. Of a row it stands what both stand:
        the report is the worse of `rule`'s and that of `floor(share v)` at `share`.

    Raises:
        ValueError: `share` is not in `[0, 0.5)`; `rule` has no buffer.

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
        return acc

    def finish(acc: Ballots, state: Tree, shared: Tree):
        delta, state, info = rule.finish(mix(acc, share), state, shared)
        counts = [table.counts for table in row_ballots(acc)] if acc.touched else []
        # The number stood grows with the share: where one report is the worse on one
        # row, it is so on all.
        mine = row_report(counts, tolerates, share, len(acc.weights))
        worse = {name: jnp.maximum(x, info[name]) for name, x in mine.items()}
        return delta, state, {**info, **worse}

    def tolerates(num_voters):
        return assumed_attackers(num_voters, share)

    return Aggregator(init, rule.update, finish, rule.start)


def mix(ballots: Ballots, share: float) -> Ballots:
    """The ballots after mixing; absent clients stay absent."""
    present = ballots.voters
    if not ballots.touched:
        squared = distances.pairwise_squared(ballots.deltas)
        deltas = mix_jointly(ballots.deltas, squared, present, share)
        return dataclasses.replace(ballots, deltas=deltas)

    def row(x: Array, voters: Array) -> Array:
        return mix_jointly(x, pairwise_squared(x), voters, share)

    rest = joint(ballots.deltas)
    if jax.tree.leaves(rest):
        rest = mix_jointly(rest, distances.pairwise_squared(rest), present, share)
    tables = [ballot_by_ballot(row, table) for table in row_ballots(ballots)]
    return dataclasses.replace(ballots, deltas=with_rows(ballots.deltas, rest, tables))


def mix_jointly(deltas: Tree, squared: Array, present: Array, share: float) -> Tree:
    """Each client's mean of its nearest.

    Args:
        deltas: leaves `[C, ...]`.
        squared: `[C, C]`, their squared distances.
        present: `[C]` bool.
        share: assumed share of attackers.
    """
    n = present.sum(dtype=jnp.int32)
    keep = jnp.broadcast_to(n - assumed_attackers(n, share), present.shape)
    near = order.smallest(squared, present[:, None], keep).T
    near = jnp.where(present[:, None], near / jnp.maximum(keep, 1)[:, None], 0)

    def leaf(x):
        flat = distances.flat(x)
        mean = jnp.matmul(
            near.astype(x.dtype), flat, precision=jax.lax.Precision.HIGHEST
        )
        return mean.reshape(x.shape)

    return jax.tree.map(leaf, deltas)
