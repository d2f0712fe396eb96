"""Repeated ids of rows: their first places, and their ranks."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.running import running_sum


def first_occurrence(ids: Array, num_rows: int) -> Array:
    """For each position the first position that holds the same id.

    Small tables take one scatter into a buffer of `num_rows`; large ones one sort of
    packed (id, position) words, so that the cost does not grow with the catalog.

    Args:
        ids: `[R]` int32 in `[0, num_rows]`.
        num_rows: length of the table; the padding id.

    Returns:
        `[R]` int32, at most `arange(R)`.

    >>> import jax.numpy as jnp
    >>> first_occurrence(jnp.array([7, 3, 7, 9]), 9).tolist()
    [0, 1, 0, 3]
    """
    (r,) = ids.shape
    position = jnp.arange(r, dtype=jnp.int32)
    id_bits, position_bits = int(num_rows).bit_length(), max(r - 1, 1).bit_length()
    if num_rows <= 16 * r or id_bits + position_bits > 32:
        first = jnp.full((num_rows + 1,), r, jnp.int32).at[ids].min(position)
        return first[ids]
    packed = (ids.astype(jnp.uint32) << position_bits) | position.astype(jnp.uint32)
    packed = jax.lax.sort(packed)
    sorted_ids = packed >> position_bits
    sorted_position = (packed & ((1 << position_bits) - 1)).astype(jnp.int32)
    starts = jnp.concatenate([jnp.ones(1, bool), sorted_ids[1:] != sorted_ids[:-1]])
    # Positions ascend within an id, so a run's first entry is the first occurrence.
    run = jax.lax.cummax(jnp.where(starts, position, 0))
    return jnp.zeros(r, jnp.int32).at[sorted_position].set(sorted_position[run])


def places_in_order(ids: Array, num_rows: int) -> Array:
    """Rank of each id among the distinct `ids`.

    Args:
        ids: `[R]` int32 in `[0, num_rows]`, repeated or not.
        num_rows: length of the table; the padding id.

    Returns:
        `[R]` int32; `R` for padding.

    >>> places_in_order(jnp.array([7, 3, 7, 9]), 9).tolist()
    [1, 0, 1, 4]
    """
    (r,) = ids.shape
    id_bits, position_bits = int(num_rows).bit_length(), max(r - 1, 1).bit_length()
    if num_rows <= 16 * r or id_bits + position_bits > 32:
        touched = jnp.zeros(num_rows + 1, jnp.int32).at[ids].set(1)
        rank = (running_sum(touched, num_rows + 1) - 1)[ids]
    else:
        position = jnp.arange(r, dtype=jnp.uint32)
        packed = jax.lax.sort((ids.astype(jnp.uint32) << position_bits) | position)
        sorted_ids = packed >> position_bits
        new = jnp.concatenate([jnp.zeros(1, bool), sorted_ids[1:] != sorted_ids[:-1]])
        position = (packed & ((1 << position_bits) - 1)).astype(jnp.int32)
        rank = jnp.zeros(r, jnp.int32).at[position].set(running_sum(new, r))
    return jnp.where(ids < num_rows, rank, r)
