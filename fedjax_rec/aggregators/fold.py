"""Weighted sums of deltas, in memory that does not grow with the cohort."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator, Senders

LARGEST = 60.0
"""Largest exponent of a weight, so that sums of weights are finite in float32."""


class Fold(NamedTuple):
    """Accumulators of a weighted sum.

    Attributes:
        total: weighted sum of the deltas, like the shared parameters.
        sums: further sums over clients.
        memory: the part of the server's state that weights depend on; not a sum.
    """

    total: Tree
    sums: Any
    memory: Any


Finish = Callable[[Fold, Tree, Tree], tuple[Tree, Tree, dict[str, Array]]]


def scalar(shared: Tree) -> Array:
    """A zero of the shared parameters' type; one all-reduce joins arrays of a type."""
    return jnp.zeros((), jax.tree.leaves(shared)[0].dtype)


def fold(
    weigh: Callable[[Fold, Tree, Array, Senders], tuple[Tree, Array, Any]],
    finish: Finish,
    sums: Callable[[Tree, int], Any] = lambda shared, cohort_size: scalar(shared),
    *,
    start: Callable[[Tree], Tree] = lambda shared: (),
    reads: Callable[[Tree], Any] = lambda state: (),
    linear: bool = False,
    equal: bool = False,
) -> Aggregator:
    """An aggregator that adds up weighted deltas.

    Args:
        weigh: `(acc, deltas [V, ...], weights [V], senders) -> (deltas, scale, sums)`,
            the deltas to be added, their factors `[V]` or `[V, leaves]`, and the
            increased sums. It does not change `acc.total`.
        finish: as in `Aggregator`.
        sums: `(shared, cohort_size) -> sums` of no client.
        start: as in `Aggregator`.
        reads: `(state)` to the part of it that `weigh` reads.
        linear: as in `Aggregator`.
        equal: all factors are 0 or 1, so that rows need not be multiplied.
    """

    def init(shared: Tree, cohort_size: int) -> Fold:
        total = jax.tree.map(jnp.zeros_like, shared)
        return Fold(total, sums(shared, cohort_size), reads(start(shared)))

    def begin(acc: Fold, state: Tree) -> Fold:
        return acc._replace(memory=reads(state))

    def update(acc: Fold, deltas: Tree, weights: Array, senders: Senders) -> Fold:
        deltas, scale, new = weigh(acc, deltas, weights, senders)
        return Fold(_added(acc.total, deltas, scale, equal), new, acc.memory)

    return Aggregator(init, update, finish, start, linear, begin)


def mean(
    weigh: Callable[[Tree, Array, Senders, tuple[int, ...]], Array],
    *,
    per_row: bool = False,
    linear: bool = False,
    equal: bool = False,
) -> Aggregator:
    """`sum_c w_c delta_c / sum_c w_c`; an untouched row is a row of zeros.

    Args:
        weigh: `(deltas, weights [V], senders, table lengths) -> w [V]`, not negative.
            Its values for absent clients are ignored.
        per_row: divide a row by the weights of the clients that touched it, so that a
            rare item moves as fast as a popular one.
        linear: as in `Aggregator`.
        equal: as in `fold`.
    """

    def counted(leaf: Tree) -> bool:
        return per_row and rows.is_table(leaf) and leaf.per_row

    def sums(shared: Tree, cohort_size: int) -> tuple[Array, list[Array]]:
        zero, tables = scalar(shared), filter(counted, rows.tables_of(shared))
        return zero, [jnp.zeros(len(table.values), zero.dtype) for table in tables]

    def weigh_present(acc: Fold, deltas: Tree, weights: Array, senders: Senders):
        scale = weigh(deltas, weights, senders, rows.table_lengths(acc.total))
        # An absent client's message may be anything, even infinite.
        scale = jnp.where(weights > 0, scale, 0).astype(weights.dtype)
        leaves = jax.tree.leaves(acc.total, is_leaf=rows.is_table)
        sent = jax.tree.leaves(deltas, is_leaf=rows.is_rows)
        sent = [x for leaf, x in zip(leaves, sent, strict=True) if counted(leaf)]
        weight, touched = acc.sums
        touched = [
            total + rows.count_touched(len(total), delta, scale)
            for total, delta in zip(touched, sent, strict=True)
        ]
        return deltas, scale, (weight + scale.sum(), touched)

    def finish(acc: Fold, state: Tree, shared: Tree):
        weight, touched = acc.sums[0], iter(acc.sums[1])

        def divide(leaf: Tree) -> Tree:
            return divided(leaf, next(touched) if counted(leaf) else weight)

        delta = jax.tree.map(divide, acc.total, is_leaf=rows.is_table)
        return delta, state, {}

    return fold(weigh_present, finish, sums, linear=linear, equal=equal)


def divided(total: Tree, weight: Array) -> Tree:
    """Every leaf over `weight` `[]` or `[I]`, and unchanged if that is 0."""
    over = jnp.where(weight > 0, weight, 1)
    return jax.tree.map(lambda x: x / wide(over, x), total)


def dot(weights: Array, x: Array) -> Array:
    """`sum_c weights_c x_c` `[...]`, with `x` `[C, ...]`."""
    return jnp.tensordot(weights, x, 1, precision=jax.lax.Precision.HIGHEST)


def wide(mask: Array, x: Array) -> Array:
    """`mask` with as many further axes as it needs to broadcast against `x`."""
    return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))


def squared_norms(deltas: Tree, lengths: Sequence[int]) -> Array:
    """Squared norms `[V, leaves]`, over the rows of a table together.

    Args:
        deltas: leaves `[V, ...]`.
        lengths: `rows.table_lengths` of the shared parameters.
    """
    leaves = jax.tree.leaves(each_row_once(deltas, lengths), is_leaf=rows.is_rows)
    arrays = [x.values if rows.is_rows(x) else x for x in leaves]
    return jnp.stack([jnp.square(x).reshape(len(x), -1).sum(1) for x in arrays], -1)


def each_row_once(deltas: Tree, lengths: Sequence[int]) -> Tree:
    """Deltas in which repeated rows are added up and padding is zero."""

    def merge(delta: Tree, length: int) -> Tree:
        if not rows.is_rows(delta):
            return delta
        merged = jax.vmap(lambda sent: rows.merge_repeats(sent, length))(delta)
        values = jnp.where(wide(merged.ids < length, merged.values), merged.values, 0)
        return dataclasses.replace(merged, values=values)

    leaves, structure = jax.tree.flatten(deltas, is_leaf=rows.is_rows)
    return structure.unflatten(map(merge, leaves, lengths))


def _added(total: Tree, deltas: Tree, scale: Array, equal: bool) -> Tree:
    """`total + sum_c scale_c delta_c`, with factors `[V]` or `[V, leaves]`."""

    def add(leaf: Tree, delta: Tree, factors: Array) -> Tree:
        if rows.is_rows(delta):
            if equal:  # rows of a client with factor 0 become padding
                ids = jnp.where(
                    wide(factors > 0, delta.ids), delta.ids, len(leaf.values)
                )
                delta = dataclasses.replace(delta, ids=ids)
            values = rows.scatter_add(leaf.values, delta, None if equal else factors)
            return dataclasses.replace(leaf, values=values)
        return leaf + dot(factors, delta).astype(leaf.dtype)

    leaves, structure = jax.tree.flatten(total, is_leaf=rows.is_table)
    sent = jax.tree.leaves(deltas, is_leaf=rows.is_rows)
    factors = scale.T if scale.ndim == 2 else [scale] * len(leaves)
    return structure.unflatten(map(add, leaves, sent, factors))
