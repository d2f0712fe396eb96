"""Client state that is shaped like the shared parameters, read and written by rows.

The memory of a table is `[I, d]`. A message reads and writes only the rows that it
touches, and the memory of other rows waits. A codec may therefore receive only those
rows, and a round never copies a whole memory.
"""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree, struct


@struct
class Memory:
    """Part of a codec's state that is shaped like the shared parameters.

    Attributes:
        tree: with a `Table` for each table, or, inside a round, the `Rows` of it that
            the delta touches, in the delta's order.
    """

    tree: Tree


def zeros(shared: Tree) -> Memory:
    """The memory before a client's first message."""
    return Memory(tree=jax.tree.map(jnp.zeros_like, shared))


def read(memory: Memory, delta: Tree) -> Tree:
    """The memory in the form of a delta: of tables the rows that `delta` touches."""

    def leaf(memory, change):
        if rows.is_table(memory):
            return _rows_of(memory, change)
        if rows.is_rows(memory):
            return dataclasses.replace(change, values=memory.values)
        return memory

    return jax.tree.map(leaf, memory.tree, delta, is_leaf=_is_leaf)


def write(memory: Memory, delta: Tree) -> Memory:
    """The memory with its leaves and touched rows replaced by those of `delta`."""

    def leaf(memory, change):
        if rows.is_table(memory):
            return _with_rows(memory, change)
        if rows.is_rows(memory):
            values = change.values.astype(memory.values.dtype)
            return dataclasses.replace(memory, values=values)
        return change.astype(memory.dtype)

    return Memory(tree=jax.tree.map(leaf, memory.tree, delta, is_leaf=_is_leaf))


def aligned(delta: Tree, target: Tree, every_row: bool = False) -> Tree:
    """`delta` in the rows of `target` and their order; zero in rows it does not touch.

    Args:
        delta: every row once.
        target: every row once.
        every_row: both touch the same rows; no row is looked up if both are `ordered`.
    """

    def leaf(change, wanted):
        if not rows.is_rows(change):
            return change
        if every_row and change.ordered and wanted.ordered:
            return dataclasses.replace(wanted, values=change.values)
        source = rows.places_of(wanted.ids, change)
        values = change.values.at[source].get(mode="fill", fill_value=0)
        return dataclasses.replace(wanted, values=values)

    return jax.tree.map(leaf, delta, target, is_leaf=rows.is_rows)


def plus(a: Tree, b: Tree, scale: float = 1.0) -> Tree:
    """`a + scale * b` of two deltas that touch the same rows in the same order."""
    return rows.map_values(lambda x, y: x + scale * y, a, b)


def take(states: Tree, clients: Array, deltas: Tree) -> Tree:
    """The part of many clients' states that a codec needs to encode their deltas.

    Args:
        states: leaves `[N, ...]`.
        clients: `[V]` int32; past the end if absent.
        deltas: `[V, ...]`, every row of a client's table once.

    Returns:
        States `[V, ...]`, with memories of the touched rows only.
    """

    def part(state):
        if not isinstance(state, Memory):
            return trees.take(state, clients)
        return Memory(tree=jax.tree.map(leaf, state.tree, deltas, is_leaf=_is_leaf))

    def leaf(memory, change):
        if not rows.is_table(memory):
            return trees.take(memory, clients)
        return _rows_of(memory, change, clients[:, None])

    return jax.tree.map(part, states, is_leaf=_is_memory)


def put(states: Tree, clients: Array, new: Tree) -> Tree:
    """`states` with the part that `take` returned replaced by `new`."""

    def part(state, new):
        if not isinstance(state, Memory):
            return trees.put(state, clients, new)
        return Memory(tree=jax.tree.map(leaf, state.tree, new.tree, is_leaf=_is_leaf))

    def leaf(memory, new):
        if not rows.is_table(memory):
            return trees.put(memory, clients, new)
        return _with_rows(memory, new, clients[:, None])

    return jax.tree.map(part, states, new, is_leaf=_is_memory)


def _rows_of(table: rows.Table, change: rows.Rows, *clients: Array) -> rows.Rows:
    """The rows of `table` that `change` touches."""
    touched = table.values.at[(*clients, change.ids)]
    return dataclasses.replace(change, values=touched.get(mode="fill", fill_value=0))


def _with_rows(table: rows.Table, change: rows.Rows, *clients: Array) -> rows.Table:
    """`table` with the rows of `change` in place of its own."""
    new = change.values.astype(table.values.dtype)
    values = table.values.at[(*clients, change.ids)].set(new, mode="drop")
    return dataclasses.replace(table, values=values)


def _is_leaf(leaf: Tree) -> bool:
    return rows.is_table(leaf) or rows.is_rows(leaf)


def _is_memory(leaf: Tree) -> bool:
    return isinstance(leaf, Memory)
