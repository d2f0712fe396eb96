"""The ballots of each row of a table, apart from what all clients vote on jointly."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust.ballots import Ballots, Voting
from fedjax_rec.aggregators.robust.breakdown import row_report
from fedjax_rec.aggregators.robust.coordinates import diluted
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree


class RowBallots(NamedTuple):
    """What the voters of a table's rows sent.

    Attributes:
        x: `[C, I, d]`.
        voters: `[C, I]` bool, who is present and touched the row.
        counts: `[I]` int32, their number.
    """

    x: Array
    voters: Array
    counts: Array


def row_ballots(ballots: Ballots) -> list[RowBallots]:
    """Of every table on whose rows only some vote, in the order of the leaves."""
    found = []
    tables = [t for t in _leaves(ballots.deltas) if by_row(t)]
    for table, touched in zip(tables, ballots.touched, strict=True):
        voters = (touched > 0) & ballots.voters[:, None]
        x = table.values.reshape(*table.values.shape[:2], -1)
        found.append(RowBallots(x, voters, voters.sum(0, dtype=jnp.int32)))
    return found


def by_row(leaf: Tree) -> bool:
    """Whether a leaf is a table whose rows have voters of their own."""
    return rows.is_table(leaf) and leaf.per_row


def row_values(tree: Tree) -> list[Array]:
    """`[I, d]` of every such table of the shared parameters, or of their like."""
    tables = [table.values for table in _leaves(tree) if by_row(table)]
    return [values.reshape(len(values), -1) for values in tables]


def joint(tree: Tree) -> Tree:
    """The leaves on which all clients vote, with `None` for the other tables."""
    return jax.tree.map(
        lambda leaf: None if by_row(leaf) else leaf, tree, is_leaf=rows.is_table
    )


def with_rows(like: Tree, rest: Tree, values: Sequence[Array]) -> Tree:
    """Puts tables of `values` where `joint` left none.

    Args:
        like: the shared parameters, or their like.
        rest: from `joint(like)`.
        values: `[I, d]` of each table.
    """
    given = iter(values)

    def leaf(old, other):
        if not by_row(old):
            return other
        return dataclasses.replace(old, values=next(given).reshape(old.values.shape))

    return jax.tree.map(leaf, like, rest, is_leaf=rows.is_table)


def vote(
    ballots: Ballots,
    shared: Tree,
    voting: Voting,
    whole: Callable[[Ballots], tuple[Tree, dict[str, Array]]],
    row: Callable[[RowBallots], Array],
    tolerates: Callable,
    share: float,
) -> tuple[Tree, dict[str, Array]]:
    """Asks one rule for all that is voted on jointly, and one for each table's rows.

    Args:
        ballots: of the cohort.
        shared: the shared parameters.
        voting: who votes on a row of a table.
        whole: `(ballots) -> (delta, info)`, where not all is tables of voters.
        row: `(ballots of a table) -> [I, d]`.
        tolerates: `(num_voters) -> attackers` among them that `row` stands.
        share: assumed share of attackers, for the report.

    Returns:
        `(delta, info)`; `info` with `breakdown.row_report`.
    """
    if voting == "dense":
        return whole(ballots)
    tables = row_ballots(ballots)
    values = [row(table) for table in tables]
    if voting == "diluted":
        values = [
            diluted(x, table.counts, ballots.voters)
            for x, table in zip(values, tables, strict=True)
        ]
    rest, info = joint(ballots.deltas), {}
    if jax.tree.leaves(rest):
        rest, info = whole(dataclasses.replace(ballots, deltas=rest, touched=()))
    counts = [table.counts for table in tables]
    report = row_report(counts, tolerates, share, len(ballots.weights))
    return with_rows(shared, rest, values), {**info, **report}


def _leaves(tree: Tree) -> list[Tree]:
    return jax.tree.leaves(tree, is_leaf=rows.is_table)
