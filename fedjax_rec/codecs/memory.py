"""What a client remembers of the shared parameters: a dense tree, read by rows.

The memory of a table is `[I, d]`. A message reads and writes only the rows it touches;
what the client remembers of others stays.
"""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec import rows
from fedjax_rec.types import Tree


def zeros(shared: Tree) -> Tree:
    """Nothing remembered yet."""
    return jax.tree.map(jnp.zeros_like, shared)


def read(memory: Tree, at: Tree) -> Tree:
    """The memory in the form of a delta: of tables the rows that `at` touches."""

    def leaf(kept, change):
        if not rows.is_table(kept):
            return kept
        values = kept.values.at[change.ids].get(mode="fill", fill_value=0)
        return dataclasses.replace(change, values=values)

    return jax.tree.map(leaf, memory, at, is_leaf=rows.is_table)


def write(memory: Tree, delta: Tree) -> Tree:
    """The memory with the leaves and rows of `delta` in the place of its own."""

    def leaf(kept, change):
        if not rows.is_table(kept):
            return change.astype(kept.dtype)
        values = kept.values.at[change.ids].set(
            change.values.astype(kept.values.dtype), mode="drop"
        )
        return dataclasses.replace(kept, values=values)

    return jax.tree.map(leaf, memory, delta, is_leaf=rows.is_table)


def add(memory: Tree, delta: Tree, scale: float = 1.0) -> Tree:
    """`memory + scale * delta`; each row comes once, padding not at all."""

    def leaf(kept, change):
        if not rows.is_table(kept):
            return kept + (scale * change).astype(kept.dtype)
        values = kept.values.at[change.ids].add(
            (scale * change.values).astype(kept.values.dtype), mode="drop"
        )
        return dataclasses.replace(kept, values=values)

    return jax.tree.map(leaf, memory, delta, is_leaf=rows.is_table)


def plus(a: Tree, b: Tree, scale: float = 1.0) -> Tree:
    """`a + scale * b` of two deltas that touch the same rows in the same order."""

    def leaf(x, y):
        if rows.is_rows(x):
            return dataclasses.replace(x, values=x.values + scale * y.values)
        return x + scale * y

    return jax.tree.map(leaf, a, b, is_leaf=rows.is_rows)
