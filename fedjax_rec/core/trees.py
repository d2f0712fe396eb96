"""Tree arithmetic."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree


def where(condition: Array, a: Tree, b: Tree) -> Tree:
    """`a` if the scalar `condition` holds, else `b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def take(tree: Tree, index: Array) -> Tree:
    """Rows `index` of every leaf; indices past the end read the last row."""
    return jax.tree.map(lambda x: x.at[index].get(mode="clip"), tree)


def put(tree: Tree, index: Array, rows: Tree) -> Tree:
    """Writes `rows` at `index` of every leaf; indices past the end are ignored."""
    return jax.tree.map(lambda x, r: x.at[index].set(r, mode="drop"), tree, rows)
