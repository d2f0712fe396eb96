"""The buffer of rules that see all deltas of a cohort at once, and their driver."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators import fold
from fedjax_rec.aggregators.robust.voting import Voting, row_report
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator, Senders


class Ballots(NamedTuple):
    """The deltas of a cohort, one slot per client.

    Attributes:
        deltas: like the shared parameters, every leaf `[C, ...]`; rows that a client
            did not touch are zero.
        weights: `[C]`, the clients' numbers of examples; 0 if absent.
        touched: `[C, I]` of 0 and 1 for each table with voters by row, in the order of
            the leaves.
    """

    deltas: Tree
    weights: Array
    touched: tuple[Array, ...]

    @property
    def voters(self) -> Array:
        """The present clients, `[C]` bool."""
        return self.weights > 0


class RowBallots(NamedTuple):
    """The votes on a table's rows.

    Attributes:
        x: `[C, I, d]`.
        voters: `[C, I]` bool, the present clients that touched a row.
        counts: `[I]` int32, their number.
        weights: `[C]`, the clients' numbers of examples.
    """

    x: Array
    voters: Array
    counts: Array
    weights: Array


class Rule(NamedTuple):
    """A rule for deltas that are voted on jointly, and for single rows.

    Attributes:
        joint: `(ballots, state) -> (delta, state, info)`.
        by_row: `(row ballots, state) -> (values [I, d], state, info)`. Entries of
            `info` are divided by the number of votes.
        tolerates: `(num_voters)` to the number of attackers among them that `by_row`
            withstands.
        start: `(values [b, p] of leaves)` to the state of `b` decisions, each on a row
            of every leaf; `None` without a state.
        check: `(cohort_size)` raises a ValueError if the cohort is too small.
    """

    joint: Callable[[Ballots, Any], tuple[Tree, Any, dict[str, Array]]]
    by_row: Callable[[RowBallots, Any], tuple[Array, Any, dict[str, Array]]]
    tolerates: Callable
    start: Callable[[list[Array]], Any] | None = None
    check: Callable[[int], None] = lambda cohort_size: None


def buffered(
    rule: Rule, voting: Voting, share: float, attackers: float | None = None
) -> Aggregator:
    """An aggregator that keeps every delta of the cohort until the end of a round.

    A round without present clients moves no parameter and keeps the state. Memory:
    `ballot_bytes`, that is `C` times the shared parameters.

    Args:
        rule: the rule. With voting by `voters` or `diluted`, each row of a table is
            decided by its own voters, and all other leaves jointly.
        voting: the voters on a row of a table.
        share: assumed share of attackers.
        attackers: share of attackers for the report; by default `share`.

    Returns:
        An aggregator; `info` has the rule's, and `voting.row_report` with voters by
        row.
    """

    def start(shared: Tree) -> Any:
        if rule.start is None:
            return ()
        others, tables = _split(shared, voting)
        joint = [leaf.reshape(1, -1) for leaf in jax.tree.leaves(others)]
        by_row = [rule.start([x.reshape(len(x), -1)]) for x in tables]
        return rule.start(joint) if joint else (), tuple(by_row)

    def init(shared: Tree, cohort_size: int) -> Ballots:
        rule.check(cohort_size)
        return empty(shared, cohort_size, voting)

    def finish(acc: Ballots, state: Any, shared: Tree):
        part, tables = split(acc)
        joint, by_row = state or ((), [()] * len(tables))
        delta, info = part.deltas, {}
        if jax.tree.leaves(delta):
            delta, joint, info = rule.joint(part, joint)
        decided = [rule.by_row(x, s) for x, s in zip(tables, by_row, strict=True)]
        values = [new for new, _, _ in decided]
        if voting == "diluted":
            values = [
                _diluted(x, table) for x, table in zip(values, tables, strict=True)
            ]
        counts = [table.counts for table in tables]
        votes = jnp.maximum(sum(count.sum() for count in counts), 1)
        for name in decided[0][2] if decided else ():
            info[name] = sum(more[name] for _, _, more in decided) / votes
        expected = share if attackers is None else attackers
        report = row_report(counts, rule.tolerates, expected, len(acc.weights))
        delta = with_rows(shared, delta, values)
        new = (joint, tuple(after for _, after, _ in decided)) if state else state
        present = acc.voters.any()
        delta = jax.tree.map(lambda x: jnp.where(present, x, 0), delta)
        new = jax.tree.map(lambda x, old: jnp.where(present, x, old), new, state)
        return delta, new, {**info, **report}

    return Aggregator(init, written, finish, start)


def empty(shared: Tree, cohort_size: int, voting: Voting = "dense") -> Ballots:
    """Ballots of a cohort before any client has sent its delta."""
    dtype = fold.scalar(shared).dtype
    return Ballots(
        jax.tree.map(lambda x: jnp.zeros((cohort_size, *x.shape), x.dtype), shared),
        jnp.zeros(cohort_size, dtype),
        # The deltas' type, since one all-reduce joins arrays of one type.
        tuple(
            jnp.zeros((cohort_size, len(values)), dtype)
            for values in _split(shared, voting)[1]
        ),
    )


def written(acc: Ballots, deltas: Tree, weights: Array, senders: Senders) -> Ballots:
    """Ballots with the deltas of a chunk in their slots."""
    tables = jax.tree.leaves(acc.deltas, is_leaf=rows.is_table)
    # Adding to zeros instead of writing: each device then holds its own clients' slots,
    # and a sum joins them. Slots past the end are dropped.
    slots = jnp.where(weights > 0, senders.slots, len(acc.weights))

    def write(buffer: Tree, delta: Tree) -> Tree:
        if not rows.is_rows(delta):
            return buffer.at[slots].add(delta.astype(buffer.dtype), mode="drop")
        values = delta.values.astype(buffer.values.dtype)
        values = buffer.values.at[slots[:, None], delta.ids].add(values, mode="drop")
        return dataclasses.replace(buffer, values=values)

    sent = jax.tree.leaves(deltas, is_leaf=rows.is_rows)
    ids = [x.ids for table, x in zip(tables, sent, strict=True) if _by_row(table)]
    touched = zip(acc.touched, ids, strict=False)
    return Ballots(
        jax.tree.map(write, acc.deltas, deltas, is_leaf=rows.is_table),
        acc.weights.at[slots].add(weights, mode="drop"),
        tuple(x.at[slots[:, None], i].max(1, mode="drop") for x, i in touched),
    )


def ballot_bytes(shared: Tree, cohort_size: int, voting: Voting = "dense") -> int:
    """Bytes of the buffer of a cohort.

    `C (bytes of the shared leaves + one weight)`, and one number per client and row of
    the tables with voters by row.
    """
    acc = jax.eval_shape(lambda: empty(shared, cohort_size, voting))
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(acc))


def kept_by(rule: Aggregator, reader: str, shared: Tree, cohort_size: int) -> Ballots:
    """The empty ballots of another rule, for `reader`, which changes them at the end.

    Raises:
        ValueError: the rule has no buffer.
    """
    acc = rule.init(shared, cohort_size)
    if not isinstance(acc, Ballots):
        raise ValueError(
            f"{reader} needs a rule that keeps the cohort's deltas, such as "
            "TrimmedMean, which with share 0 is a mean; this rule only keeps their sum"
        )
    return acc


def split(ballots: Ballots) -> tuple[Ballots, list[RowBallots]]:
    """Ballots of the leaves that are voted on jointly, and those of tables by row."""
    voting = "voters" if ballots.touched else "dense"
    others, values = _split(ballots.deltas, voting)
    tables = []
    for x, touched in zip(values, ballots.touched, strict=True):
        voters = (touched > 0) & ballots.voters[:, None]
        counts = voters.sum(0, dtype=jnp.int32)
        x = x.reshape(*x.shape[:2], -1)
        tables.append(RowBallots(x, voters, counts, ballots.weights))
    return ballots._replace(deltas=others), tables


def with_rows(like: Tree, others: Tree, values: Sequence[Array]) -> Tree:
    """A tree with these values in its tables by row.

    Args:
        like: the shared parameters, or a tree like them.
        others: the other leaves, and `None` for each of those tables; without `values`
            all leaves.
        values: new values of the tables, in the order of the leaves.
    """
    new = iter(values)

    def leaf(old: Tree, other: Tree) -> Tree:
        if other is not None:
            return other
        return dataclasses.replace(old, values=next(new).reshape(old.values.shape))

    return jax.tree.map(leaf, like, others, is_leaf=rows.is_table)


def _by_row(leaf: Tree) -> bool:
    return rows.is_table(leaf) and leaf.per_row


def _split(tree: Tree, voting: Voting) -> tuple[Tree, list[Array]]:
    """The tree with `None` for tables with voters by row, and the values of these."""
    if voting == "dense":
        return tree, []
    others = jax.tree.map(
        lambda x: None if _by_row(x) else x, tree, is_leaf=rows.is_table
    )
    return others, [table.values for table in rows.tables_of(tree) if table.per_row]


def _diluted(values: Array, table: RowBallots) -> Array:
    """Rows `[I, d]` times the share of the present clients that touched them."""
    part = table.counts / jnp.maximum((table.weights > 0).sum(), 1)
    return values * part.astype(values.dtype)[:, None]
