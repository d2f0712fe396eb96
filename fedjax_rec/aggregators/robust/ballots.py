"""The buffer of a rule that must see all clients' deltas at once."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders

Voting = Literal["dense", "voters", "diluted"]
"""Who votes on a row of a table.

`dense`: every present client; one that did not touch the row votes for zero. `voters`:
the clients that touched it. `diluted`: the same, and the outcome is multiplied by
their share of the present clients, so that it estimates what a uniform mean computes.
"""


@struct
class Ballots:
    """What the clients of a cohort sent, one slot each.

    Attributes:
        deltas: like the shared parameters, every leaf `[C, ...]`; a row that a client
            did not touch is zero.
        weights: `[C]`, the clients' numbers of examples; 0 is absent.
        touched: `[C, I]` of 0 and 1 for each table on whose rows only some vote, in the
            order of the leaves.
        rejected: scalar, clients whose delta held a number that is not finite. They
            count as absent.
    """

    deltas: Tree
    weights: Array
    touched: tuple[Array, ...]
    rejected: Array

    @property
    def voters(self) -> Array:
        """`[C]` bool: who is present."""
        return self.weights > 0


Rule = Callable[[Ballots, Tree, Tree], tuple[Tree, Tree, dict[str, Array]]]
"""`(ballots, state, shared) -> (delta, state, info)`."""


def buffered(
    rule: Rule,
    *,
    voting: Voting = "dense",
    start: Callable[[Tree], Tree] = lambda shared: (),
    check: Callable[[int], None] = lambda cohort_size: None,
) -> Aggregator:
    """An aggregator that keeps every delta of the cohort and asks `rule` at the end.

    Memory: `ballot_bytes`, that is `C` times the shared parameters.

    Args:
        rule: what is made of the ballots. A round in which nobody was present moves
            nothing and keeps the state, whatever the rule says.
        voting: who votes on a row of a table.
        start: the state that the server keeps for the rule.
        check: raises `ValueError` where the rule cannot work on so few clients.

    Raises:
        ValueError: `voting` is none of `Voting`.
    """
    check_voting(voting)

    def init(shared: Tree, cohort_size: int) -> Ballots:
        check(cohort_size)
        first = jax.tree.leaves(shared)[0]
        return Ballots(
            deltas=jax.tree.map(
                lambda x: jnp.zeros((cohort_size, *x.shape), x.dtype), shared
            ),
            weights=jnp.zeros(cohort_size, first.dtype),
            touched=tuple(
                # Of the deltas' type: one all-reduce joins arrays of one type.
                jnp.zeros((cohort_size, table.values.shape[0]), first.dtype)
                for table in voted_by_some(shared, voting)
            ),
            rejected=jnp.zeros((), first.dtype),
        )

    def update(acc: Ballots, deltas: Tree, weights: Array, senders: Senders) -> Ballots:
        here = weights > 0
        sound = here & finite(acc.deltas, deltas)
        # Adding to zeros instead of writing: each device then holds its own clients'
        # slots, and a sum joins them. Slots past the end are dropped.
        slots = jnp.where(sound, senders.slots, len(acc.weights))

        def write(buffer, delta):
            if rows.is_rows(delta):
                values = buffer.values.at[slots[:, None], delta.ids].add(
                    delta.values.astype(buffer.values.dtype), mode="drop"
                )
                return dataclasses.replace(buffer, values=values)
            return buffer.at[slots].add(delta.astype(buffer.dtype), mode="drop")

        sent = [
            delta
            for table, delta in zip(
                jax.tree.leaves(acc.deltas, is_leaf=rows.is_table),
                jax.tree.leaves(deltas, is_leaf=rows.is_rows),
                strict=True,
            )
            if rows.is_table(table) and table.per_row
        ]
        touched = tuple(
            seen.at[slots[:, None], delta.ids].max(1, mode="drop")
            for seen, delta in zip(acc.touched, sent, strict=False)
        )
        return Ballots(
            deltas=jax.tree.map(write, acc.deltas, deltas, is_leaf=rows.is_table),
            weights=acc.weights.at[slots].add(weights, mode="drop"),
            touched=touched,
            rejected=acc.rejected + (here & ~sound).sum().astype(acc.rejected.dtype),
        )

    def finish(acc: Ballots, state: Tree, shared: Tree):
        delta, new, info = rule(acc, state, shared)
        some = acc.voters.any()
        delta = jax.tree.map(lambda x: jnp.where(some, x, 0), delta)
        new = jax.tree.map(lambda x, old: jnp.where(some, x, old), new, state)
        return delta, new, {"rejected_clients": acc.rejected, **info}

    return Aggregator(init, update, finish, start)


def voted_by_some(shared: Tree, voting: Voting) -> list[rows.Table]:
    """The tables on whose rows only the clients vote that touched them."""
    if voting == "dense":
        return []
    leaves = jax.tree.leaves(shared, is_leaf=rows.is_table)
    return [leaf for leaf in leaves if rows.is_table(leaf) and leaf.per_row]


def finite(buffers: Tree, deltas: Tree) -> Array:
    """`[V]` bool: whether all that a client sent is finite; padding rows may be not."""

    def leaf(buffer, delta):
        if rows.is_rows(delta):
            padding = delta.ids >= buffer.values.shape[1]
            ok = jnp.isfinite(delta.values).reshape(*delta.ids.shape, -1).all(-1)
            return (ok | padding).all(1)
        return jnp.isfinite(delta).reshape(delta.shape[0], -1).all(1)

    found = jax.tree.map(leaf, buffers, deltas, is_leaf=rows.is_table)
    return jnp.stack(jax.tree.leaves(found)).all(0)


def ballot_bytes(shared: Tree, cohort_size: int, voting: Voting = "dense") -> int:
    """Bytes that the buffer of a cohort takes.

    `C (sum of the shared leaves' bytes + one weight)`, one number a client and row of
    the tables on which some vote, and one scalar.
    """
    leaves = jax.tree.leaves(shared)
    each = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
    scalar = leaves[0].dtype.itemsize
    flags = sum(table.values.shape[0] for table in voted_by_some(shared, voting))
    return cohort_size * (each + scalar + flags * scalar) + scalar


def weighted_sum(ballots: Ballots, weights: Array) -> Tree:
    """`sum_c weights_c delta_c`, leaf by leaf: one pass over the buffer."""
    return jax.tree.map(
        lambda x: jnp.tensordot(weights.astype(x.dtype), x, 1), ballots.deltas
    )


def assumed_attackers(num_voters, share: float):
    """`f = floor(share n)` int32, the attackers that a rule assumes among `n` voters.

    Of a JAX or a NumPy array. Rounded so that a tenth of 10 is 1 in any precision.
    """
    return (num_voters.astype("float32") * share + 1e-4).astype("int32")


def check_voting(voting: str) -> None:
    """Raises `ValueError` unless `voting` is one of `Voting`."""
    if voting not in get_args(Voting):
        raise ValueError(
            f"voting, who votes on a row of a table, must be one of "
            f"{', '.join(get_args(Voting))}, got {voting!r}"
        )


def check_share(share: float, below: float = 0.5) -> None:
    """Raises `ValueError` unless `0 <= share < below`."""
    if not 0 <= share < below:
        raise ValueError(
            f"share, the assumed share of attackers, must be at least 0 and below "
            f"{below:g} for this rule, got {share}"
        )
