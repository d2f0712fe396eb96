"""Quantizers: every number in a few bits, and a scale a bucket."""

import jax
import jax.numpy as jnp

from fedjax_rec.codecs import buckets, trits
from fedjax_rec.codecs.links import Count, Parts, Quantizer, clear
from fedjax_rec.codecs.wire import floats, unsigned
from fedjax_rec.core.arrays import Array


def qsgd(bits: int = 4, bucket: int | None = 512, norm: str = "l2") -> Quantizer:
    """Stochastic uniform quantization: unbiased, in levels of `norm / s`.

    `s = 2^(bits - 1) - 1` levels on each side; `x / norm s` is rounded to one of its
    two neighbours with the probabilities that keep its mean. With the 2-norm,
    `E ||Q(x) - x||^2 <= min(m / s^2, sqrt(m) / s) ||x||^2` in buckets of `m`. Levels go
    in fixed width, where the paper codes them by Elias: at 4 bits that gains little.

    Args:
        bits: of a number, at least 2.
        bucket: numbers that share a norm (32 bits); `None` for all.
        norm: `l2`, or `max`, with which the levels lie closer.

    Raises:
        ValueError: for fewer than 2 or more than 16 bits, or another norm.

    References:
        Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding, NeurIPS 2017.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"qsgd takes 2 to 16 bits a number, got {bits}")
    if norm not in ("l2", "max"):
        raise ValueError(f"norm is 'l2' or 'max', got {norm!r}")
    buckets.check(bucket)
    levels = 2 ** (bits - 1) - 1

    def encode(values: Array, count: Count, key: Array) -> Parts:
        cut = buckets.cut(values, bucket)
        scale = _l2(cut) if norm == "l2" else jnp.abs(cut).max(1)
        code = _stochastic(values, cut, scale, levels, key)
        return {
            "scales": floats(scale, buckets.number(count, bucket)),
            "levels": unsigned(code, count, bits),
        }

    def decode(parts: Parts, n: int, count: Count) -> Array:
        level = parts["levels"].values.astype(jnp.float32) - levels
        return _scaled(level, parts["scales"].values / levels, bucket, count)

    return Quantizer(encode, decode)


def terngrad(clip: float | None = None) -> Quantizer:
    """Stochastic -1, 0 or 1 times the largest magnitude; five to a byte, 1.6 bits each.

    Unbiased unless clipped.

    Args:
        clip: numbers beyond so many standard deviations are cut there; 2.5 in the
            paper.

    References:
        Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed
        Deep Learning, NeurIPS 2017.
    """
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is a positive number of deviations, got {clip}")

    def encode(values: Array, count: Count, key: Array) -> Parts:
        if clip is not None:
            real = jnp.maximum(jnp.asarray(count, jnp.float32), 1)
            mean = values.sum() / real
            variance = jnp.square(clear(values - mean, count)).sum() / real
            bound = clip * jnp.sqrt(variance)
            values = jnp.clip(values, -bound, bound)
        cut = buckets.cut(values, None)
        scale = jnp.abs(cut).max(1, initial=0)
        code = _stochastic(values, cut, scale, 1, key)
        return {
            "scale": floats(scale, 1),
            "trits": unsigned(trits.pack(code), trits.number(count), 8),
        }

    def decode(parts: Parts, n: int, count: Count) -> Array:
        level = trits.unpack(parts["trits"].values, n).astype(jnp.float32) - 1
        return _scaled(level, parts["scale"].values, None, count)

    return Quantizer(encode, decode)


def block_int(bits: int = 8, block: int = 64) -> Quantizer:
    """Nearest of evenly spaced levels up to each block's largest magnitude.

    The error of a number is at most half a level, `max / (2^bits - 2)`.

    Args:
        bits: of a number, 2 to 16; usually 8 or 4.
        block: numbers that share a scale of 32 bits.

    Raises:
        ValueError: for other bits, or an empty block.

    References:
        Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, ICLR 2016.
    """
    if not 2 <= bits <= 16:
        raise ValueError(f"block_int takes 2 to 16 bits a number, got {bits}")
    buckets.check(block)
    levels = 2 ** (bits - 1) - 1

    def encode(values: Array, count: Count, key: Array) -> Parts:
        del key
        cut = buckets.cut(values, block)
        scale = jnp.abs(cut).max(1)
        level = jnp.round(cut * _inverse(scale, levels)[:, None])
        code = buckets.uncut(level, len(values)) + levels
        return {
            "scales": floats(scale, buckets.number(count, block)),
            "levels": unsigned(code, count, bits),
        }

    def decode(parts: Parts, n: int, count: Count) -> Array:
        level = parts["levels"].values.astype(jnp.float32) - levels
        return _scaled(level, parts["scales"].values / levels, block, count)

    return Quantizer(encode, decode)


def _l2(cut: Array) -> Array:
    """`[b]`, without overflow or underflow of the squares."""
    largest = jnp.abs(cut).max(1, initial=0)
    unit = cut * _inverse(largest, 1)[:, None]
    return largest * jnp.sqrt(jnp.square(unit).sum(1))


def _inverse(scale: Array, levels: int) -> Array:
    return jnp.where(scale > 0, levels / jnp.where(scale > 0, scale, 1), 0)


def _stochastic(
    values: Array, cut: Array, scale: Array, levels: int, key: Array
) -> Array:
    """`[n]` in 0 to `2 levels`: each number rounded up or down at random."""
    exact = buckets.uncut(cut * _inverse(scale, levels)[:, None], len(values))
    level = jnp.floor(exact + dither(key, len(values)))
    return jnp.clip(level, -levels, levels) + levels


def dither(key: Array, n: int) -> Array:
    """`[n]` uniform in (0, 1), of 24 bits; the first numbers do not depend on `n`.

    A hash of the place and of two words drawn from the key (the finalizer of
    MurmurHash3, twice keyed): rounding asks for even and independent odds, not for
    secrecy, and Threefry itself took four times as long as all the rest of `qsgd`.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    h = jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) + first
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13) ^ second) * jnp.uint32(0xC2B2AE35)
    h = h ^ (h >> 16)
    return ((h >> 8).astype(jnp.float32) + 0.5) * 2.0**-24


def _scaled(level: Array, scales: Array, size: int | None, count: Count) -> Array:
    cut = buckets.cut(level, size) * scales[:, None]
    return clear(buckets.uncut(cut, len(level)), count)
