"""Order statistics along the clients, for columns of which some clients are absent.

XLA sorts slowly on a CPU. A k-th smallest number does not need a sort: read as an
integer in the numbers' order, it is found bit by bit, by counting how many numbers lie
below. Blocks of columns stay in the cache while they are counted, and 16 bits at a time
double the numbers of one vector instruction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array

BLOCK = 256
"""Columns counted at once: 943 clients' take 1 MB, about a core's cache. Fewer would be
read in pieces of memory too short."""


def columnwise(
    rule: Callable[[Array, Array, Array], Array], x: Array, voters: Array
) -> Array:
    """Applies a rule for columns to a buffer, block by block.

    Args:
        rule: `(x [C, P], voters, counts) -> [P]`, with `voters` `[C, P]` or `[C, 1]`
            bool and `counts` `[P]` or `[1]` int32, their number.
        x: `[C, G, ...]`.
        voters: `[C]`, who votes on every column, or `[C, G]`, who on each row.

    Returns:
        `[G, ...]`.
    """
    c = len(x)
    if voters.ndim == 1:
        each = x.reshape(c, -1, 1)

        def by_number(block, of):
            return rule(block[..., 0], of, of.sum(0, dtype=jnp.int32))[:, None]

        return rowwise(by_number, each, voters[:, None]).reshape(x.shape[1:])

    def by_column(block, of):
        of = jnp.repeat(of, block.shape[2], axis=1)
        found = rule(block.reshape(c, -1), of, of.sum(0, dtype=jnp.int32))
        return found.reshape(block.shape[1:])

    return rowwise(by_column, x.reshape(c, x.shape[1], -1), voters).reshape(x.shape[1:])


def rowwise(rule: Callable[..., Array], x: Array, voters: Array, *more: Array) -> Array:
    """Applies a rule to a buffer, some rows at a time.

    Args:
        rule: `(x [C, b, d], voters [C, b] or [C, 1], *more [b, ...]) -> [b, e]`.
        x: `[C, G, d]`.
        voters: `[C, G]` or `[C, 1]`.
        *more: `[G, ...]`, what else a rule reads of its rows.

    Returns:
        `[G, e]`.
    """
    num_rows, width = x.shape[1:]
    size = max(1, min(BLOCK // width, num_rows))

    def part(first):
        def cut(whole, axis):
            return jax.lax.dynamic_slice_in_dim(whole, first, size, axis)

        of = cut(voters, 1) if voters.shape[1] > 1 else voters
        return rule(cut(x, 1), of, *(cut(each, 0) for each in more))

    def visit(i, out):
        # The last block starts early enough to be whole; some rows are done twice.
        first = jnp.minimum(i * size, num_rows - size)
        return jax.lax.dynamic_update_slice_in_dim(out, part(first), first, 0)

    like = jax.eval_shape(part, jnp.int32(0))
    out = jnp.zeros((num_rows, like.shape[1]), x.dtype)
    return jax.lax.fori_loop(0, -(-num_rows // size), visit, out)


def kth_smallest(x: Array, voters: Array, rank: Array) -> Array:
    """The number with `rank` others below it, of each column.

    Args:
        x: `[C, P]` floats, finite where a client votes.
        voters: `[C, P]` or `[C, 1]` bool.
        rank: `[P]` or `[1]` int32 in `[0, voters)`; outside, the result means nothing.

    Returns:
        `[P]`, exactly a number of the column.
    """
    bits = x.dtype.itemsize * 8
    last = jnp.array(2**bits - 1, f"uint{bits}")
    keys = jnp.where(voters, _in_order(x), last)
    count = jnp.int16 if x.shape[0] < 2**15 else jnp.int32
    rank = jnp.broadcast_to(rank, x.shape[1:]).astype(count)
    found = jnp.zeros(x.shape[1:], keys.dtype)
    matching: Array | bool = True
    for shift in range(bits - 16, -1, -16):
        # Less 2^15, because vector units compare signed numbers.
        digit = ((keys >> shift) & 0xFFFF).astype(jnp.int32) - 2**15
        digit = jnp.where(matching, digit, 2**15 - 1).astype(jnp.int16)
        best = _search(digit, rank)
        rank = rank - (digit < best).sum(0, dtype=count)
        matching = matching & (digit == best)
        unsigned = (best.astype(jnp.int32) + 2**15).astype(keys.dtype)
        found = found | (unsigned << shift)
    return _out_of_order(found, x.dtype)


def _search(digit: Array, rank: Array) -> Array:
    """The largest int16 with at most `rank` of each column of `digit` below it."""

    def step(i, best):
        larger = best + (jnp.int32(1) << (15 - i))
        below = digit < larger.astype(jnp.int16)
        return jnp.where(below.sum(0, dtype=rank.dtype) <= rank, larger, best)

    start = jnp.full(digit.shape[1:], -(2**15), jnp.int32)
    return jax.lax.fori_loop(0, 16, step, start).astype(jnp.int16)


def _in_order(x: Array) -> Array:
    """Floats as unsigned integers that compare alike."""
    bits = x.dtype.itemsize * 8
    raw = jax.lax.bitcast_convert_type(x, f"uint{bits}")
    sign = raw >> (bits - 1)
    top = jnp.ones((), raw.dtype) << (bits - 1)
    return jnp.where(sign == 1, ~raw, raw | top)


def _out_of_order(keys: Array, dtype) -> Array:
    bits = jnp.dtype(dtype).itemsize * 8
    top = jnp.ones((), keys.dtype) << (bits - 1)
    raw = jnp.where(keys >> (bits - 1) == 1, keys ^ top, ~keys)
    return jax.lax.bitcast_convert_type(raw, dtype)


def next_above(x: Array, voters: Array, value: Array, rank: Array) -> Array:
    """The number at `rank`, where `value` is at that rank or at the one before.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        value: `[P]`.
        rank: `[P]` or `[1]` int32.
    """
    up_to = (voters & (x <= value)).sum(0, dtype=jnp.int32)
    above = jnp.where(voters & (x > value), x, jnp.inf).min(0)
    return jnp.where(up_to > rank, value, above)


def median(x: Array, voters: Array, counts: Array) -> Array:
    """The median of each column; the mean of the middle two, and 0 for no voters."""
    low = kth_smallest(x, voters, jnp.maximum(counts - 1, 0) // 2)
    high = next_above(x, voters, low, counts // 2)
    # Halved before the sum, which could overflow.
    return jnp.where(counts > 0, low / 2 + jnp.where(counts > 0, high, 0) / 2, 0)


def smallest(x: Array, voters: Array, num: Array) -> Array:
    """Marks the `num` smallest of each column; equal ones share the last places.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        num: `[P]` or `[1]` int32; at most the voters.

    Returns:
        `[C, P]` in `[0, 1]`, each column with the sum `num`.
    """
    last = kth_smallest(x, voters, jnp.maximum(num - 1, 0))
    below, tied = voters & (x < last), voters & (x == last)
    places = (num - below.sum(0, dtype=jnp.int32)).astype(x.dtype)
    each = places / jnp.maximum(tied.sum(0, dtype=jnp.int32), 1).astype(x.dtype)
    return jnp.where(num > 0, jnp.where(below, 1, jnp.where(tied, each, 0)), 0)
