"""Count sketches of trees: linear, and inner products survive them.

Each number of a tree, by its place in the flattened shared parameters, is added with a
random sign to one of `columns` buckets, in each of `repeats` rows with hashes of their
own. The sketch of a sum is the sum of the sketches.

References:
    Charikar, Chen and Farach-Colton, Finding Frequent Items in Data Streams, ICALP
    2002.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree


def sketch(delta: Tree, lengths: Sequence[int], repeats: int, columns: int) -> Array:
    """Sketch `[repeats, columns]` of one client's delta.

    Args:
        delta: dense leaves and `rows.Rows`; repeated ids add up.
        lengths: `table_lengths` of the shared parameters.
        repeats: rows of the sketch.
        columns: buckets in each row.
    """
    leaves = jax.tree.leaves(delta, is_leaf=rows.is_rows)
    total, first = jnp.zeros(()), 0
    for leaf, length in zip(leaves, lengths, strict=True):
        values, places, size = _places(leaf, length)
        total += sketch_of_places(places + first, values, repeats, columns)
        first += size
    return total


def estimate(sketch: Array, size: int) -> Array:
    """Every number `[size]`, the median of its estimates by the sketch's rows."""
    repeats, columns = sketch.shape
    every = jnp.arange(size, dtype=jnp.uint32)

    def row(repeat: int) -> Array:
        bucket, sign = _hash(every, repeat, columns)
        return sign * sketch[repeat, bucket]

    return jnp.median(jnp.stack([row(repeat) for repeat in range(repeats)]), axis=0)


def sketch_of_places(places: Array, values: Array, repeats: int, columns: int) -> Array:
    """Sketch of numbers `values` `[k]` at `places` `[k]`."""

    def row(repeat: int) -> Array:
        bucket, sign = _hash(places.astype(jnp.uint32), repeat, columns)
        return jnp.zeros(columns, values.dtype).at[bucket].add(sign * values)

    return jnp.stack([row(repeat) for repeat in range(repeats)])


def _places(leaf: Any, length: int) -> tuple[Array, Array, int]:
    """Values and places of a leaf's numbers, and the size of the whole leaf."""
    if not rows.is_rows(leaf):
        every = jnp.arange(leaf.size, dtype=jnp.uint32)
        return leaf.reshape(-1), every, leaf.size
    values = leaf.values.reshape(len(leaf.ids), -1)
    width = values.shape[1]
    # Padding names rows past the table's end, with any values.
    values = jnp.where((leaf.ids < length)[:, None], values, 0)
    places = leaf.ids.astype(jnp.uint32)[:, None] * width
    places += jnp.arange(width, dtype=jnp.uint32)
    return values.reshape(-1), places.reshape(-1), length * width


def _hash(places: Array, repeat: int, columns: int) -> tuple[Array, Array]:
    """Bucket int32 and sign of each place, pairwise nearly independent."""
    x = places * jnp.uint32(0x9E3779B1) + jnp.uint32(0x85EBCA77 * (repeat + 1) % 2**32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)  # MurmurHash3's finalizer
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    x ^= x >> 16
    sign = jnp.where(x >> 31, 1.0, -1.0)
    return ((x & 0x7FFFFFFF) % columns).astype(jnp.int32), sign
