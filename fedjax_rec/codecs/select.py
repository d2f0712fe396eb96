"""The k largest numbers of a vector, found without sorting.

The threshold is found by a few passes that only count. Sets of places are words of 32
bits, in which the j-th place is found by counting bits.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.running import running_sum

_FEW = 64
"""Numbers that are sorted."""

_GUESSED = 20
"""Bits of a first guess."""

_NORMAL = 0x00800000
"""Bits of the smallest normal float32."""

_BLOCK = 1024
"""Numbers counted at once: two counts share the 24 bits of a float32."""


class Places(NamedTuple):
    """Ascending places in a vector.

    Attributes:
        index: `[slots]` int32; the vector's length beyond `count`.
        count: int32 scalar.
    """

    index: Array
    count: Array


def magnitude(values: Array) -> Array:
    """The order of `largest`; NaN comes first, so that it is sent and noticed.

    Subnormal numbers count as zero, since compilers differ in whether they are.
    """
    size = jnp.where(jnp.isnan(values), jnp.inf, jnp.abs(values))
    return jnp.where(size < _float(jnp.int32(_NORMAL)), 0, size)


def largest(order: Array, k: Array | int, slots: int) -> Places:
    """Places of the `k` largest numbers; of equal ones the first.

    Args:
        order: `[n]` float32, from `magnitude`.
        k: number of places, at most `slots`.
        slots: static size of the result.

    >>> largest(jnp.array([3.0, 9.0, 3.0, 7.0, 3.0]), 3, 4).index.tolist()
    [0, 1, 3, 5]
    """
    k, n = jnp.asarray(k, jnp.int32), len(order)
    if not slots:
        return Places(jnp.zeros(slots, jnp.int32), jnp.int32(0))
    low, high, above = _bracket(order, k)
    words = pack(order >= _float(high))
    between = pack((order >= _float(low)) & (_bits(order) < high))
    wanted = k - above
    index = places(between, _FEW, n).index
    few = order.at[index].get(mode="fill", fill_value=-1)
    least = jnp.sort(few, descending=True)[jnp.clip(wanted - 1, 0, _FEW - 1)]
    equal = (few == least).astype(jnp.int32)
    left = wanted - (few > least).sum()
    chosen = (few > least) | ((equal > 0) & (running_sum(equal, _FEW) <= left))
    chosen &= (index < n) & (wanted > 0)
    bit = jnp.uint32(1) << (index & 31).astype(jnp.uint32)
    added = words.at[index >> 5].add(jnp.where(chosen, bit, 0), mode="drop")
    # More than a few are all equal, or none is wanted. Unlike `cond`, a loop of one
    # turn or none remains one under `vmap`.
    crowded = (_set_bits(between).sum() > _FEW).astype(jnp.int32)
    words = jax.lax.fori_loop(
        0, crowded, lambda _, added: words | _first(between, wanted), added
    )
    return places(words, slots, n)


def _bracket(order: Array, k: Array) -> tuple[Array, Array, Array]:
    """Bits of two numbers around the `k`-th largest, and how many reach the upper.

    At least `k` numbers reach the lower bound, fewer the upper one. A pass tries two
    cuts between them: first those that a sample suggests; then, by interpolation of the
    counts' logarithm, one on either side of `k`; in every third pass those that cut the
    bits in three, as insurance. In the end at most a few numbers are left between the
    bounds, or all of these are equal.
    """
    n = len(order)
    guesses = _guesses(order, k)
    blocks = jnp.pad(order, (0, -n % min(n, _BLOCK)), constant_values=-1)
    blocks = blocks.reshape(-1, min(n, _BLOCK))

    def reach(cuts: Array) -> Array:
        """How many numbers reach each of two ascending cuts: two counts in one sum."""
        low, high = _float(cuts)
        both = jnp.where(blocks >= high, 4097.0, jnp.where(blocks >= low, 1.0, 0.0))
        both = both.sum(1).astype(jnp.int32)
        return jnp.stack([(both & 4095).sum(), (both >> 12).sum()])

    def go_on(state):
        _, low, reach_low, high, reach_high = state
        return (reach_low - reach_high > _FEW) & (high - low > 1) & (k > 0)

    def step(state):
        i, low, reach_low, high, reach_high = state
        over, under = reach_low - k + 0.5, k - 0.5 - reach_high
        off = 1 + 2 * jnp.sqrt(over * under / (over + under))
        aim = jnp.maximum(jnp.stack([k + off, k - off]), 0.25)
        top, bottom = jnp.log(reach_low + 0.5), jnp.log(reach_high + 0.5)
        part = jnp.clip((top - jnp.log(aim)) / (top - bottom), 0, 1)
        cuts = _bits(_float(low) + (_float(high) - _float(low)) * part)
        third = (high - low) // 3
        cuts = jnp.where(i % 3 == 2, jnp.stack([low + third, high - third]), cuts)
        cuts = jnp.where(i == 0, guesses, cuts)
        cuts = jnp.clip(cuts, low + 1, high - 1)
        cuts = jnp.stack([cuts.min(), cuts.max()])
        first, second = reach(cuts)
        # `low` becomes the last of low and the cuts that `k` numbers reach, and `high`
        # the one after it.
        lower, upper = first >= k, second >= k
        return (
            i + 1,
            jnp.where(upper, cuts[1], jnp.where(lower, cuts[0], low)),
            jnp.where(upper, second, jnp.where(lower, first, reach_low)),
            jnp.where(upper, high, jnp.where(lower, cuts[1], cuts[0])),
            jnp.where(upper, reach_high, jnp.where(lower, second, first)),
        )

    end = _bits(order.max()) + 1
    zero = jnp.int32(_NORMAL - 1)
    start = (jnp.int32(0), zero, jnp.int32(n), jnp.maximum(end, _NORMAL), jnp.int32(0))
    _, low, _, high, above = jax.lax.while_loop(go_on, step, start)
    return low, high, above


def _guesses(order: Array, k: Array) -> Array:
    """`[2]` bits of a number below the cut and one above it, three deviations off."""
    n = len(order)
    m = max(1, n // 32)
    sample = order[: n // m * m].reshape(m, -1)[:, 0]
    rank = k * (m / n)
    off = 3 * jnp.sqrt(rank) + 1
    ranks = jnp.stack([rank + off, rank - off])

    def bit(i, guesses):
        raised = guesses | (jnp.int32(1 << 30) >> i)
        reach = (sample >= _float(raised)[:, None]).astype(jnp.float32).sum(1)
        return jnp.where(reach >= ranks, raised, guesses)

    return jax.lax.fori_loop(0, _GUESSED, bit, jnp.zeros(2, jnp.int32))


def _bits(x: Array) -> Array:
    """As integers the bits of non-negative floats are in the floats' order."""
    return jax.lax.bitcast_convert_type(x, jnp.int32)


def _float(bits: Array) -> Array:
    return jnp.where(bits < _NORMAL, 0, jax.lax.bitcast_convert_type(bits, jnp.float32))


def pack(mask: Array) -> Array:
    """`[n]` bool as `[ceil(n / 32)]` uint32, the first in the lowest bit."""
    mask = jnp.pad(mask, (0, -len(mask) % 32)).reshape(-1, 32)
    weights = jnp.uint32(1) << jnp.arange(32, dtype=jnp.uint32)
    return jnp.where(mask, weights, 0).sum(1, dtype=jnp.uint32)


def places(words: Array, slots: int, length: int) -> Places:
    """Places of the set bits of `words` `[w]`, as many as there is room for."""
    counts = _set_bits(words)
    ends = running_sum(counts, length)
    starts = ends - counts
    rank = jnp.arange(slots, dtype=jnp.int32)
    # The word of a slot is the last of those that start there or before.
    begun = jnp.zeros(slots, jnp.int32).at[starts].add(1, mode="drop")
    word = running_sum(begun, len(words)) - 1
    bit = _nth_bit(words[word], rank - starts[word])
    count = jnp.minimum(ends[-1], slots)
    index = jnp.where(rank < count, word * 32 + bit, length)
    # Without the barrier, the compiler computes them again in every gather and scatter.
    return Places(jax.lax.optimization_barrier(index), count)


def _set_bits(words: Array) -> Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _first(words: Array, wanted: Array) -> Array:
    """`words` with only the first `wanted` set bits."""
    counts = _set_bits(words)
    before = running_sum(counts, 32 * len(words)) - counts
    left = jnp.clip(wanted - before, 0, counts)
    end = _nth_bit(words, left)
    lower = words & ((jnp.uint32(1) << end.astype(jnp.uint32)) - 1)
    return jnp.where(left == counts, words, lower)


def _nth_bit(words: Array, n: Array) -> Array:
    """Place of the set bit with `n` set ones below it, by halving the word."""
    bit = jnp.zeros_like(n)
    for half in (16, 8, 4, 2, 1):
        low = _set_bits(words & jnp.uint32((1 << half) - 1))
        up = n >= low
        n = jnp.where(up, n - low, n)
        words = jnp.where(up, words >> half, words)
        bit = jnp.where(up, bit + half, bit)
    return bit
