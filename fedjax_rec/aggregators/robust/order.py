"""Order statistics along the clients, for columns in which some clients are absent.

XLA sorts slowly on a CPU. A k-th smallest number needs no sort: read as an integer in
the order of the numbers, it is determined bit by bit, by counting smaller numbers.
Blocks of columns stay in the cache while they are counted, and 16 bits at a time double
the numbers of one vector instruction.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree

BLOCK = 256
"""Columns counted at once: those of 943 clients take 1 MB, about a core's cache. Fewer
would be read in too short pieces of memory."""


def columnwise(
    rule: Callable[[Array, Array, Array], Array], x: Array, voters: Array
) -> Array:
    """Applies a rule for columns to a buffer, block by block.

    Args:
        rule: `(x [C, P], voters, counts) -> [P]`, with `voters` `[C, P]` or `[C, 1]`
            bool and their number `counts` `[P]` or `[1]` int32.
        x: `[C, G, ...]`.
        voters: `[C]`, the voters on all columns, or `[C, G]`, those on each row.

    Returns:
        `[G, ...]`.
    """
    c = len(x)
    if voters.ndim == 1:
        x_, voters = x.reshape(c, -1, 1), voters[:, None]
    else:
        x_ = x.reshape(c, x.shape[1], -1)

    def block_rule(block: Array, of: Array) -> Array:
        of = of if of.shape[1] == 1 else jnp.repeat(of, block.shape[2], axis=1)
        values = rule(block.reshape(c, -1), of, of.sum(0, dtype=jnp.int32))
        return values.reshape(block.shape[1:])

    return rowwise(block_rule, x_, voters).reshape(x.shape[1:])


def coordinatewise(rule: Callable[..., Array], deltas: Tree, voters: Array) -> Tree:
    """`columnwise` of leaves `[C, ...]`, with the voters `[C]` on all columns."""
    return jax.tree.map(lambda x: columnwise(rule, x[:, None], voters)[0], deltas)


def rowwise(rule: Callable[..., Tree], x: Array, voters: Array, *more: Tree) -> Tree:
    """Applies a rule to a buffer, a block of rows at a time.

    Args:
        rule: `(x [C, b, d], voters [C, b] or [C, 1], *more [b, ...])` to a tree of
            `[b, ...]`.
        x: `[C, G, d]`.
        voters: `[C, G]` or `[C, 1]`.
        *more: trees of `[G, ...]`, further inputs of the rule.

    Returns:
        A tree of `[G, ...]`.
    """
    num_rows, width = x.shape[1:]
    size = max(1, min(BLOCK // width, num_rows))

    def part(first: Array) -> Tree:
        def cut(array: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(array, first, size, axis)

        of = cut(voters, 1) if voters.shape[1] > 1 else voters
        return rule(cut(x, 1), of, *jax.tree.map(lambda array: cut(array, 0), more))

    def visit(i: Array, out: Tree) -> Tree:
        # The last block starts early enough to be full; some rows are done twice.
        first = jnp.minimum(i * size, num_rows - size)
        put = jax.lax.dynamic_update_slice_in_dim
        return jax.tree.map(lambda o, new: put(o, new, first, 0), out, part(first))

    like = jax.eval_shape(part, jnp.int32(0))
    out = jax.tree.map(lambda s: jnp.zeros((num_rows, *s.shape[1:]), s.dtype), like)
    return jax.lax.fori_loop(0, -(-num_rows // size), visit, out)


def kth_smallest(x: Array, voters: Array, rank: Array) -> Array:
    """The number with `rank` others below it, of each column.

    Args:
        x: `[C, P]` floats, finite if a client votes.
        voters: `[C, P]` or `[C, 1]` bool.
        rank: `[P]` or `[1]` int32 in `[0, voters)`; the result for others is undefined.

    Returns:
        `[P]`, exactly a number of the column.
    """
    bits = x.dtype.itemsize * 8
    last = jnp.array(2**bits - 1, f"uint{bits}")
    keys = jnp.where(voters, _in_order(x), last)
    count = jnp.int16 if x.shape[0] < 2**15 else jnp.int32
    rank = jnp.broadcast_to(rank, x.shape[1:]).astype(count)
    result = jnp.zeros(x.shape[1:], keys.dtype)
    matching: Array | bool = True
    for shift in range(bits - 16, -1, -16):
        # Less 2^15, because vector units compare signed numbers.
        digit = ((keys >> shift) & 0xFFFF).astype(jnp.int32) - 2**15
        digit = jnp.where(matching, digit, 2**15 - 1).astype(jnp.int16)
        best = _search(digit, rank)
        rank = rank - (digit < best).sum(0, dtype=count)
        matching = matching & (digit == best)
        unsigned = (best.astype(jnp.int32) + 2**15).astype(keys.dtype)
        result = result | (unsigned << shift)
    return _out_of_order(result, x.dtype)


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


def median(x: Array, voters: Array, counts: Array) -> Array:
    """The median of each column; the mean of the middle two, and 0 for no voters."""
    low = kth_smallest(x, voters, jnp.maximum(counts - 1, 0) // 2)
    up_to = (voters & (x <= low)).sum(0, dtype=jnp.int32)
    above = jnp.where(voters & (x > low), x, jnp.inf).min(0)
    high = jnp.where(up_to > counts // 2, low, above)
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


def around_median(x: Array, voters: Array, counts: Array, keep: Array) -> Array:
    """The mean of the `keep` numbers of each column that are nearest to its median.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        counts: `[P]` or `[1]` int32, the number of voters.
        keep: `[P]` or `[1]` int32, at most `counts`.
    """
    middle = median(x, voters, counts)
    near = smallest(jnp.abs(x - middle), voters, keep)
    num = jnp.maximum(keep, 1).astype(x.dtype)
    mean = jnp.where(near > 0, near * x, 0).sum(0) / num
    return jnp.where(counts > 0, mean, 0)
