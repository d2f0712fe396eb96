"""The k largest of a vector and where they are, without sorting.

The threshold is found bit by bit: as integers, the bits of non-negative floats are in
the floats' order, so 31 passes that only count are enough. Sets of places are words of
32 bits, in which the j-th place is found by counting bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.types import Array


class Places(NamedTuple):
    """Ascending places in a vector.

    Attributes:
        at: `[slots]` int32; the vector's length beyond `count`.
        count: int32 scalar.
    """

    at: Array
    count: Array


def magnitude(values: Array) -> Array:
    """int32 that orders float32 `values` by size, whatever the sign; NaN is largest."""
    return jax.lax.bitcast_convert_type(values, jnp.int32) & 0x7FFFFFFF


def largest(order: Array, k: Array | int, slots: int) -> Places:
    """Where the `k` largest are; of equal ones the first.

    Args:
        order: `[n]` int32, not negative.
        k: how many, at most `slots`.
        slots: room for them.

    Returns:
        Their places.

    >>> largest(jnp.array([3, 9, 3, 7, 3]), 3, 4).at.tolist()
    [0, 1, 3, 5]
    """
    k = jnp.asarray(k, jnp.int32)

    def bit(i, found):
        tried = found | (jnp.int32(1 << 30) >> i)
        enough = (order >= tried).sum(dtype=jnp.int32) >= k
        return jnp.where(enough, tried, found)

    cut = jax.lax.fori_loop(0, 31, bit, jnp.int32(0))
    above, equal = pack(order > cut), pack(order == cut)
    wanted = k - _set_bits(above).sum()
    first = _first(equal, wanted)
    return places(above | first, slots, len(order))


def pack(mask: Array) -> Array:
    """`[n]` bool as `[ceil(n / 32)]` uint32, the first in the lowest bit."""
    mask = jnp.pad(mask, (0, -len(mask) % 32)).reshape(-1, 32)
    weights = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
    return jnp.where(mask, weights, 0).sum(1, dtype=jnp.uint32)


def places(words: Array, slots: int, length: int) -> Places:
    """Where the set bits of `words` `[w]` are, as far as there is room."""
    counts = _set_bits(words)
    ends = jnp.cumsum(counts)
    rank = jnp.arange(slots, dtype=jnp.int32)
    word = jnp.searchsorted(ends, rank, side="right", method="scan_unrolled")
    word = jnp.minimum(word, len(words) - 1)
    rest = rank - (ends - counts)[word]
    bit = _nth_bit(words[word], rest)
    count = jnp.minimum(ends[-1], slots)
    return Places(jnp.where(rank < count, word * 32 + bit, length), count)


def _set_bits(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _first(words: Array, wanted: Array) -> Array:
    """`words` with only the first `wanted` set bits."""
    counts = _set_bits(words)
    before = jnp.cumsum(counts) - counts
    left = jnp.clip(wanted - before, 0, counts)
    end = _nth_bit(words, left)
    kept = words & ((jnp.uint32(1) << end.astype(jnp.uint32)) - 1)
    return jnp.where(left == counts, words, kept)


def _nth_bit(words: Array, n: Array) -> Array:
    """Place of the set bit with `n` set ones below it, by halving the word."""
    at = jnp.zeros_like(n)
    for half in (16, 8, 4, 2, 1):
        low = _set_bits(words & jnp.uint32((1 << half) - 1))
        up = n >= low
        n = jnp.where(up, n - low, n)
        words = jnp.where(up, words >> half, words)
        at = jnp.where(up, at + half, at)
    return at
