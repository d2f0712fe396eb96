"""Products in which equal rows have equal results."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array


@jax.custom_batching.custom_vmap
def inner(items: Array, user: Array) -> Array:
    """`items @ user`, `[K, d]` and `[d]` to `[K]`; equal rows give equal numbers.

    Compiled as a matrix times a vector, the rows that fill no tile would be summed in
    another order, and ties among items would be broken by rounding. A matrix times a
    matrix, as for many users and common items, sums all of them in the same order.
    """
    return jnp.sum(items * user, -1)


@inner.def_vmap
def _inner_of_many(axis_size, in_batched, items, user):
    if in_batched == [False, True] and axis_size > 1:
        return user @ items.T, True
    axes = tuple(0 if batched else None for batched in in_batched)
    return jax.vmap(lambda items, user: jnp.sum(items * user, -1), axes)(
        items, user
    ), True
