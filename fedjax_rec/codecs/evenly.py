"""Numbers in evenly spaced levels, with a scale for each bucket of numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.codecs import dither, leaves, wire

_POWERS = (1, 3, 9, 27, 81)


def pack_trits(values: jax.Array) -> jax.Array:
    """Numbers 0, 1, 2 `[n]`, five to a byte: `[ceil(n / 5)]` int32 below 3^5 = 243.

    >>> pack_trits(jnp.array([2, 0, 1, 0, 0, 2])).tolist()
    [11, 2]
    """
    values = values.astype(jnp.int32)
    padded = jnp.pad(values, (0, -len(values) % 5)).reshape(-1, 5)
    return (padded * jnp.array(_POWERS)).sum(1)


def unpack_trits(packed: jax.Array, n: int) -> jax.Array:
    """The first `n` of the numbers that `pack_trits` packed."""
    packed = packed.astype(jnp.int32)[:, None]
    return (packed // jnp.array(_POWERS) % 3).reshape(-1)[:n]


def _cut(values: jax.Array, size: int | None) -> jax.Array:
    """`[n]` as buckets `[b, size]`, zeros at the end; `None` is one bucket.

    The shape of a bucket does not depend on `n`, so that neither does the order in
    which its numbers are added.
    """
    if size is None:
        return values[None]
    return jnp.pad(values, (0, -len(values) % size)).reshape(-1, size)


def leveled(
    quantize: Callable[..., tuple[jax.Array, jax.Array]],
    levels: float,
    size: int | None,
    bits: int | None,
) -> leaves.Link:
    """Sends a scale for each bucket, and the numbers in evenly spaced levels.

    Args:
        quantize: `(values [n], buckets [b, size], count, key) -> (scales [b], code
            [n])`; a code of 0 is decoded as `-scale`, one of `2 levels` as `scale`.
        levels: levels on each side of zero; a half for two levels in all.
        size: numbers that share a scale; `None` for all.
        bits: bits of a code; `None` for five codes in a byte.
    """

    def encode(values, count, key, place):
        key = jax.random.fold_in(key, place)
        scales, code = quantize(values, _cut(values, size), count, key)
        number = 1 if size is None else -(-count // size)
        if bits is None:
            code, count = pack_trits(code), -(-count // 5)
        code = wire.unsigned(code, count, bits or 8)
        return {"scales": wire.floats(scales, number), "levels": code}

    def decode(sent, n, count):
        code, scales = sent["levels"].values, sent["scales"].values / levels
        level = code if bits is not None else unpack_trits(code, n)
        buckets = _cut(level.astype(jnp.float32) - levels, size) * scales[:, None]
        return leaves.clear(buckets.reshape(-1)[:n], count)

    return leaves.Link(encode, decode)


def stochastic(
    scale: Callable[[jax.Array, leaves.Count], tuple[jax.Array, jax.Array]],
    levels: int,
    size: int | None,
    bits: int | None,
) -> leaves.Link:
    """Rounds each number up or down at random, with odds that keep its mean.

    The variant for feedback sends smaller scales: `c Q(x)` with `c = ||x||^2 / (||x||^2
    + V)` and `V = E ||Q(x) - x||^2` has the least error, `(1 - c) ||x||^2`.

    Args:
        scale: `(buckets [b, size], count) -> (buckets, scales [b])`, the buckets to
            round, with no number beyond their scale.
        levels: as in `leveled`.
        size: as in `leveled`.
        bits: as in `leveled`.
    """

    def link(contracting: bool) -> leaves.Link:
        def quantize(values, buckets, count, key):
            buckets, scales = scale(buckets, count)
            exact = buckets * inverse(scales, levels)[:, None]
            # The sum of `exact` and a dither would be rounded, beyond a level at times.
            level = jnp.floor(exact)
            up = (exact - level).reshape(-1)[: len(values)]
            code = level.reshape(-1)[: len(values)]
            code += dither.dither(key, len(values)) < up
            if contracting:
                squares = jnp.square(exact).sum(1)
                variance = ((exact - level) * (1 - exact + level)).sum(1)
                total = squares + variance
                scales = scales * squares / jnp.where(total > 0, total, 1)
            return scales, jnp.clip(code, -levels, levels) + levels

        return leveled(quantize, levels, size, bits)

    return link(False)._replace(contracting=link(True))


def l2(buckets: jax.Array) -> jax.Array:
    """`[b]`, without overflow or underflow of the squares."""
    largest = jnp.abs(buckets).max(1, initial=0)
    unit = buckets * inverse(largest, 1)[:, None]
    return largest * jnp.sqrt(jnp.square(unit).sum(1))


def inverse(scale: jax.Array, levels: int) -> jax.Array:
    """`levels / scale`, and 0 for a scale of 0."""
    return jnp.where(scale > 0, levels / jnp.where(scale > 0, scale, 1), 0)
