"""Norm bounding by rows: every item's row has a bound of its own."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import order
from fedjax_rec.aggregators.robust.ballots import Voting, finite
from fedjax_rec.aggregators.robust.breakdown import majority_tolerates, row_report
from fedjax_rec.aggregators.robust.coordinates import diluted
from fedjax_rec.aggregators.robust.row_ballots import by_row, joint, with_rows
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class ClippedRows:
    """A running sum of rows, each clipped by itself.

    Attributes:
        rest: the acc of what is voted on jointly, `()` where there is none.
        total: the tables; `None` in the place of all else.
        norms: `[C, I]`, of each client's row before it was clipped.
        voters: `[C, I]`, 1 where a present client touched the row.
        present: `[C]`, 1 where a client was present.
        rejected: scalar, clients whose delta held a number that is not finite.
        bound: `[I]`, what this round clips to; not a sum, and not read at the end.
    """

    rest: Tree
    total: Tree
    norms: tuple[Array, ...]
    voters: tuple[Array, ...]
    present: Array
    rejected: Array
    bound: tuple[Array, ...]


def bound_rows(
    rest: Aggregator,
    *,
    bound: float | None,
    first: float,
    momentum: float,
    voting: Voting,
    share: float,
) -> Aggregator:
    """`norm_bound` of the rows of tables, each over the clients that touched it.

    A row's bound follows the median of its voters' norms as `norm_bound`'s follows that
    of all clients; a round in which nobody touched it changes nothing. Memory: one
    delta and `2 C I` numbers.

    Args:
        rest: the rule for all else; its acc has a `total` like the parameters.
        bound: as of `norm_bound`, of a row.
        first: as of `norm_bound`, of a row.
        momentum: as of `norm_bound`.
        voting: `voters` or `diluted`.
        share: assumed share of attackers, for the report.

    Returns:
        An aggregator; its state is `{"rest": ..., "rows": [I] for each table}`.
    """
    given = first if bound is None else bound

    def start(shared: Tree) -> Tree:
        other = joint(shared)
        return {
            "rest": rest.start(other) if jax.tree.leaves(other) else (),
            "rows": tuple(
                jnp.full(len(table.values), given, table.values.dtype)
                for table in _tables(_own(shared))
            ),
        }

    def init(shared: Tree, cohort_size: int) -> ClippedRows:
        limits, other = start(shared)["rows"], joint(shared)
        dtype = jax.tree.leaves(shared)[0].dtype
        each = tuple(jnp.zeros((cohort_size, len(x)), dtype) for x in limits)
        return ClippedRows(
            rest=rest.init(other, cohort_size) if jax.tree.leaves(other) else (),
            total=jax.tree.map(jnp.zeros_like, _own(shared)),
            norms=each,
            voters=each,
            present=jnp.zeros(cohort_size, dtype),
            rejected=jnp.zeros((), dtype),
            bound=limits,
        )

    def begin(acc: ClippedRows, state: Tree) -> ClippedRows:
        inner = rest.begin(acc.rest, state["rest"]) if _some(acc) else ()
        return dataclasses.replace(acc, rest=inner, bound=state["rows"])

    def update(
        acc: ClippedRows, deltas: Tree, weights: Array, senders: Senders
    ) -> ClippedRows:
        own, other = _split(acc.total, deltas)
        here = weights > 0
        sound = here & _finite(acc.total, own)
        inner: Tree = ()
        if _some(acc):
            sound &= _finite(acc.rest.total, other)
            accepted = jnp.where(sound, weights, 0)
            inner = rest.update(acc.rest, other, accepted, senders)
        slots = jnp.where(sound, senders.slots, len(acc.present))
        sums, norms, voters = [], [], []
        for table, sent, bounds, far, seen in zip(
            _tables(acc.total),
            jax.tree.leaves(own, is_leaf=rows.is_rows),
            acc.bound,
            acc.norms,
            acc.voters,
            strict=True,
        ):
            length = len(table.values)
            once = jax.vmap(lambda x, n=length: rows.merge_repeats(x, n))(sent)
            ids = jnp.where(sound[:, None], once.ids, length)
            flat = once.values.reshape(*ids.shape, -1)
            flat = jnp.where(ids[:, :, None] < length, flat, 0)
            norm = jnp.sqrt(jnp.square(flat).sum(-1))
            most = bounds.at[ids].get(mode="fill", fill_value=0)
            flat = flat * jnp.minimum(1, most / jnp.where(norm > 0, norm, 1))[..., None]
            values = flat.reshape(once.values.shape)
            clipped = dataclasses.replace(once, ids=ids, values=values)
            total = rows.scatter_add(table.values, clipped)
            sums.append(dataclasses.replace(table, values=total))
            at = (slots[:, None], ids)
            norms.append(far.at[at].add(norm.astype(far.dtype), mode="drop"))
            voters.append(seen.at[at].max(1, mode="drop"))
        return ClippedRows(
            rest=inner,
            total=jax.tree.unflatten(
                jax.tree.structure(acc.total, is_leaf=rows.is_table), sums
            ),
            norms=tuple(norms),
            voters=tuple(voters),
            present=acc.present.at[slots].add(1, mode="drop"),
            rejected=acc.rejected + (here & ~sound).sum().astype(acc.rejected.dtype),
            bound=acc.bound,
        )

    def finish(acc: ClippedRows, state: Tree, shared: Tree):
        delta, kept, info = joint(shared), (), {}
        if _some(acc):
            delta, kept, info = rest.finish(acc.rest, state["rest"], delta)
        values, limits, counts = [], [], []
        clipped = jnp.zeros((), acc.present.dtype)
        for table, far, marks, limit in zip(
            _tables(acc.total), acc.norms, acc.voters, state["rows"], strict=True
        ):
            voters = marks > 0
            count = voters.sum(0, dtype=jnp.int32)
            counts.append(count)
            clipped = clipped + (voters & (far > limit)).sum().astype(clipped.dtype)
            total = table.values.reshape(len(count), -1)
            mean = total / jnp.maximum(count, 1)[:, None].astype(total.dtype)
            if bound is None:
                middle = order.columnwise(order.median, far, voters)
                mean, limit = _follow(mean, limit, middle, momentum)
            if voting == "diluted":
                mean = diluted(mean, count, acc.present > 0)
            values.append(mean)
            limits.append(limit)
        votes = sum((count.sum() for count in counts), jnp.int32(0))
        told = {"clipped_row_share": clipped / jnp.maximum(votes, 1)} if counts else {}
        report = row_report(counts, majority_tolerates, share, len(acc.present))
        info = {**info, **told, **report, "rejected_clients": acc.rejected}
        kept = {"rest": kept, "rows": tuple(limits)}
        return with_rows(shared, delta, values), kept, info

    return Aggregator(init, update, finish, start, begin=begin)


def _follow(mean: Array, limit: Array, middle: Array, momentum: float):
    """The rows' means and next bounds, as `norm_bound` has them of whole deltas.

    Args:
        mean: `[I, d]` of the clipped rows.
        limit: `[I]`, what they were clipped to; infinite where none was known.
        middle: `[I]`, the medians of the norms; 0 where nobody voted.
        momentum: how slowly the bound follows.
    """
    known = jnp.isfinite(limit)
    length = jnp.sqrt(jnp.square(mean).sum(1))
    factor = jnp.minimum(1, middle / jnp.where(length > 0, length, 1))
    mean = mean * jnp.where(known, 1, factor)[:, None]
    before = jnp.where(known, limit, middle)
    new = momentum * before + (1 - momentum) * middle
    return mean, jnp.where(middle > 0, new, limit)


def _own(shared: Tree) -> Tree:
    """The tables whose rows have voters of their own; `None` for all else."""
    return jax.tree.map(
        lambda x: x if by_row(x) else None, shared, is_leaf=rows.is_table
    )


def _tables(own: Tree) -> list[rows.Table]:
    return jax.tree.leaves(own, is_leaf=rows.is_table)


def _some(acc: ClippedRows) -> bool:
    return bool(jax.tree.leaves(acc.rest))


def _split(own: Tree, deltas: Tree) -> tuple[Tree, Tree]:
    """Deltas of the tables, and of all else."""

    def leaf(x):
        return x is None or rows.is_table(x)

    mine = jax.tree.map(
        lambda t, d: None if t is None else d, own, deltas, is_leaf=leaf
    )
    rest = jax.tree.map(
        lambda t, d: d if t is None else None, own, deltas, is_leaf=leaf
    )
    return mine, rest


def _finite(like: Tree, deltas: Tree) -> Array:
    return finite(jax.tree.map(lambda x: x[None], like), deltas)
