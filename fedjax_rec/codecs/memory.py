"""What a client remembers of the shared parameters, read and written by rows.

The memory of a table is `[I, d]`. A message reads and writes only the rows it touches;
what the client remembers of others stays. So a codec may be handed no more than the
rows its delta touches, and a round never copies a whole memory.
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
            the delta at hand touches, in the delta's order.
    """

    tree: Tree


def zeros(shared: Tree) -> Memory:
    """Nothing remembered yet."""
    return Memory(tree=jax.tree.map(jnp.zeros_like, shared))


def read(memory: Memory, delta: Tree) -> Tree:
    """The memory in the form of a delta: of tables the rows that `delta` touches."""

    def leaf(kept, change):
        if rows.is_table(kept):
            values = kept.values.at[change.ids].get(mode="fill", fill_value=0)
            return dataclasses.replace(change, values=values)
        if rows.is_rows(kept):
            return dataclasses.replace(change, values=kept.values)
        return kept

    return jax.tree.map(leaf, memory.tree, delta, is_leaf=_is_leaf)


def write(memory: Memory, delta: Tree) -> Memory:
    """The memory with the leaves and rows of `delta` in the place of its own."""

    def leaf(kept, change):
        if rows.is_table(kept):
            new = change.values.astype(kept.values.dtype)
            values = kept.values.at[change.ids].set(new, mode="drop")
            return dataclasses.replace(kept, values=values)
        if rows.is_rows(kept):
            values = change.values.astype(kept.values.dtype)
            return dataclasses.replace(kept, values=values)
        return change.astype(kept.dtype)

    return Memory(tree=jax.tree.map(leaf, memory.tree, delta, is_leaf=_is_leaf))


def aligned(delta: Tree, at: Tree, every_row: bool = False) -> Tree:
    """`delta` in the rows of `at` and in their order; zero in rows it does not touch.

    Of both every row comes once.

    Args:
        delta: some rows.
        at: others, or the same.
        every_row: they are the same, and where both are `ordered` nothing is looked up.
    """

    def leaf(change, wanted):
        if not rows.is_rows(change):
            return change
        if every_row and change.ordered and wanted.ordered:
            return dataclasses.replace(wanted, values=change.values)
        place = rows.places_of(wanted.ids, change)
        values = change.values.at[place].get(mode="fill", fill_value=0)
        return dataclasses.replace(wanted, values=values)

    return jax.tree.map(leaf, delta, at, is_leaf=rows.is_rows)


def plus(a: Tree, b: Tree, scale: float = 1.0) -> Tree:
    """`a + scale * b` of two deltas that touch the same rows in the same order."""

    def leaf(x, y):
        if rows.is_rows(x):
            return dataclasses.replace(x, values=x.values + scale * y.values)
        return x + scale * y

    return jax.tree.map(leaf, a, b, is_leaf=rows.is_rows)


def take(states: Tree, clients: Array, deltas: Tree) -> Tree:
    """What a codec needs of the states of many clients to encode a delta of each.

    Args:
        states: leaves `[N, ...]`.
        clients: `[V]` int32; past the end where there is none.
        deltas: `[V, ...]`, every row of a client's table once.

    Returns:
        States `[V, ...]` whose memories are those of the touched rows alone.
    """

    def part(state):
        if not isinstance(state, Memory):
            return trees.take(state, clients)
        leaves = jax.tree.map(leaf, state.tree, deltas, is_leaf=_is_leaf)
        return Memory(tree=leaves)

    def leaf(kept, change):
        if not rows.is_table(kept):
            return trees.take(kept, clients)
        at = kept.values.at[clients[:, None], change.ids]
        values = at.get(mode="fill", fill_value=0)
        return dataclasses.replace(change, values=values)

    return jax.tree.map(part, states, is_leaf=_is_memory)


def put(states: Tree, clients: Array, new: Tree) -> Tree:
    """`states` with what `take` took of them replaced by `new`."""

    def part(state, some):
        if not isinstance(state, Memory):
            return trees.put(state, clients, some)
        return Memory(tree=jax.tree.map(leaf, state.tree, some.tree, is_leaf=_is_leaf))

    def leaf(kept, some):
        if not rows.is_table(kept):
            return trees.put(kept, clients, some)
        at = kept.values.at[clients[:, None], some.ids]
        return dataclasses.replace(kept, values=at.set(some.values, mode="drop"))

    return jax.tree.map(part, states, new, is_leaf=_is_memory)


def _is_leaf(leaf: Tree) -> bool:
    return rows.is_table(leaf) or rows.is_rows(leaf)


def _is_memory(leaf: Tree) -> bool:
    return isinstance(leaf, Memory)
