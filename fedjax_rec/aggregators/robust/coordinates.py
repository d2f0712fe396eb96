"""Rules that look at every coordinate by itself: median and trimmed mean."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    assumed_attackers,
    buffered,
    check_share,
)
from fedjax_rec.aggregators.robust.breakdown import majority_tolerates, row_report
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def coordinate_median(*, voting: Voting = "dense", share: float = 0.1) -> Aggregator:
    """The median of each coordinate over the present clients.

    With `voting="dense"` it is zero on every row that fewer than half of the clients
    touched: right as an estimate, and the end of learning for most items of a
    recommender. Memory: `ballot_bytes`.

    Args:
        voting: who votes on a row of a table.
        share: assumed share of attackers, of which only the report makes use.

    Returns:
        An aggregator of one vote a client. `info` holds `breakdown.row_report` where
        only some vote on a row.

    Raises:
        ValueError: `share` is not in `[0, 0.5)`.

    References:
        Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 1.
    """
    check_share(share)
    return by_coordinates(order.median, majority_tolerates, voting, share)


def trimmed_mean(
    *,
    share: float = 0.1,
    voting: Voting = "dense",
    attackers: float | None = None,
) -> Aggregator:
    """The mean of each coordinate without its `f` largest and `f` smallest numbers.

    `f = floor(share n)` of the `n` clients that vote on the coordinate, so that share
    0 is the uniform mean. Memory: `ballot_bytes`.

    A row's voters are a sample of the clients. Where only some vote, trim a larger
    share than you expect to attack: with the same, about every other row has more
    attackers than are trimmed.

    Args:
        share: trimmed at each end, the largest share of attackers it stands.
        voting: who votes on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    Returns:
        An aggregator of one vote a client. `info` holds `breakdown.row_report` where
        only some vote on a row.

    Raises:
        ValueError: `share` or `attackers` is not in `[0, 0.5)`.

    References:
        Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 2.
    """
    check_share(share)
    attackers = share if attackers is None else attackers
    check_share(attackers)

    def tolerates(num_voters):
        return assumed_attackers(num_voters, share)

    def rule(x, voters, counts):
        return trimmed(x, voters, counts, tolerates(counts))

    return by_coordinates(rule, tolerates, voting, attackers)


def trimmed(x: Array, voters: Array, counts: Array, f: Array) -> Array:
    """The mean of each column's numbers from rank `f` to rank `counts - f - 1`.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        counts: `[P]` or `[1]` int32, the voters.
        f: `[P]` or `[1]` int32, below half of them.
    """
    low = order.kth_smallest(x, voters, f)
    high = order.kth_smallest(x, voters, jnp.maximum(counts - f - 1, 0))
    inside = voters & (x > low) & (x < high)
    # Numbers equal to an end are kept as often as their ranks are.
    at_low = (voters & (x <= low)).sum(0, dtype=jnp.int32) - f
    at_high = counts - f - (voters & (x < high)).sum(0, dtype=jnp.int32)
    num = jnp.maximum(counts - 2 * f, 1).astype(x.dtype)
    ends = low * at_low.astype(x.dtype) + high * at_high.astype(x.dtype)
    mean = (jnp.where(inside, x, 0).sum(0) + ends) / num
    return jnp.where(counts > 0, jnp.where(low == high, low, mean), 0)


def by_coordinates(
    rule: Callable[[Array, Array, Array], Array],
    tolerates: Callable[[Array], Array],
    voting: Voting,
    share: float,
) -> Aggregator:
    """An aggregator of a rule for columns, as `order.columnwise` takes it.

    Args:
        rule: of the columns.
        tolerates: `(num_voters) -> attackers` among them that the rule stands.
        voting: who votes on a row of a table.
        share: assumed share of attackers, for the report.
    """

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        del shared
        touched = iter(ballots.touched)
        present = ballots.voters
        reports = []

        def leaf(buffer):
            if not rows.is_table(buffer):
                return order.columnwise(rule, buffer[:, None], present)[0]
            if voting == "dense" or not buffer.per_row:
                values = order.columnwise(rule, buffer.values, present)
                return dataclasses.replace(buffer, values=values)
            voters = (next(touched) > 0) & present[:, None]
            counts = voters.sum(0, dtype=jnp.int32)
            reports.append(counts)
            values = order.columnwise(rule, buffer.values, voters)
            if voting == "diluted":
                values = diluted(values, counts, present)
            return dataclasses.replace(buffer, values=values)

        delta = jax.tree.map(leaf, ballots.deltas, is_leaf=rows.is_table)
        info = row_report(reports, tolerates, share, len(present))
        return delta, state, info

    return buffered(finish, voting=voting)


def diluted(values: Array, counts: Array, present: Array) -> Array:
    """Rows times the share of the present clients that touched them.

    Args:
        values: `[I, ...]`.
        counts: `[I]`, the voters of each row.
        present: `[C]` bool.
    """
    part = counts / jnp.maximum(present.sum(), 1)
    return values * part.astype(values.dtype).reshape(-1, *[1] * (values.ndim - 1))
