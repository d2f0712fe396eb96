"""Norms of what single clients send."""

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree


def squared_norms(deltas: Tree, lengths: tuple[int, ...]) -> Array:
    """`||delta||^2` of each client and leaf; a table's rows are one leaf.

    Args:
        deltas: leaves `[V, ...]`; rows that a client sends twice add up before they are
            squared, and padding counts nothing.
        lengths: from `rows.table_lengths` of the shared parameters.

    Returns:
        `[V, leaves]`; its sum over the leaves is the squared norm of all a client sent.
    """
    leaves = jax.tree.leaves(deltas, is_leaf=rows.is_rows)

    def one(delta, length: int) -> Array:
        if not rows.is_rows(delta):
            return jnp.sum(delta**2)
        merged = rows.merge_repeats(delta, length)
        real = merged.ids < length
        real = real.reshape(real.shape + (1,) * (merged.values.ndim - 1))
        return jnp.sum(jnp.where(real, merged.values, 0) ** 2)

    found = [
        jax.vmap(lambda x, length=length: one(x, length))(leaf)
        for leaf, length in zip(leaves, lengths, strict=True)
    ]
    return jnp.stack(found, -1)
