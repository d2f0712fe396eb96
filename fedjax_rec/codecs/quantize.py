"""Quantizers: every number in a few bits, with a scale for each bucket of numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from etils import epy

from fedjax_rec.codecs.feedback import Codec, Feedback

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import dither, leaves, wire


@dataclasses.dataclass(frozen=True, kw_only=True)
class Float32(Codec):
    """Sends numbers as they are, 32 bits each."""

    def link(self) -> leaves.Link:
        return _written("float32")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BF16(Codec):
    """Rounds to the nearest bfloat16: 16 bits, a relative error of at most 2^-8."""

    def link(self) -> leaves.Link:
        return _written("bfloat16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockInt(Codec):
    """Rounds to evenly spaced levels up to each block's largest magnitude.

    The error of a number is at most half a level, `max / (2^bits - 2)`.

    Attributes:
        bits: bits of a number, 2 to 16; usually 8 or 4.
        block: numbers that share a scale of 32 bits.

    References:
        Dettmers, 8-Bit Approximations for Parallelism in Deep Learning, ICLR 2016.
    """

    bits: int = 8
    block: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bits(self.bits)

    def link(self) -> leaves.Link:
        levels = 2 ** (self.bits - 1) - 1

        def nearest(values, buckets, count, key):
            scales = jnp.abs(buckets).max(1)
            level = jnp.round(buckets * _inverse(scales, levels)[:, None])
            return scales, level.reshape(-1)[: len(values)] + levels

        return _leveled(nearest, levels, self.block, self.bits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QSGD(Codec):
    """Stochastic uniform quantization: unbiased, in levels of `norm / s`.

    `s = 2^(bits - 1) - 1` levels on each side; `x / norm s` is rounded to one of its
    two neighbours with the probabilities that keep its mean. Levels have a fixed width.

    The paper proves its bounds for the 2-norm, `E ||Q(x) - x||^2 <= min(m / s^2,
    sqrt(m) / s) ||x||^2` in buckets of `m`, and codes the levels by Elias: in a bucket
    of 512 normal numbers, three quarters of the levels are 0 at `bits=4`, and a level
    takes 1.74 bits on average. At a fixed width the maximum makes use of all levels:
    its error there is `0.036 ||x||^2`, that of the 2-norm `1.58 ||x||^2`.

    Attributes:
        bits: bits of a number, 2 to 16.
        norm: scale of a bucket, its largest magnitude (`max`) or its 2-norm (`l2`).
        bucket: numbers that share a norm of 32 bits; `None` for all.

    References:
        Alistarh et al., QSGD: Communication-Efficient SGD via Gradient Quantization and
        Encoding, NeurIPS 2017.
    """

    bits: int = 4
    norm: Literal["l2", "max"] = "max"
    bucket: int | None = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_bits(self.bits)

    def link(self) -> leaves.Link:
        levels = 2 ** (self.bits - 1) - 1

        def random(values, buckets, count, key):
            scales = _l2(buckets) if self.norm == "l2" else jnp.abs(buckets).max(1)
            return scales, _stochastic(values, buckets, scales, levels, key)

        return _leveled(random, levels, self.bucket, self.bits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TernGrad(Codec):
    """Stochastic -1, 0 or 1 times the largest magnitude; five to a byte, 1.6 bits each.

    Unbiased but for the clipping, which keeps the largest magnitude small: the error of
    1000 normal numbers falls from 1.74 to 1.01 of their squared norm.

    Attributes:
        clip: numbers beyond `clip` standard deviations are cut there, 2.5 in the paper;
            `None` for no clipping, which leaves the codec unbiased.

    References:
        Wen et al., TernGrad: Ternary Gradients to Reduce Communication in Distributed
        Deep Learning, NeurIPS 2017.
    """

    clip: float | None = 2.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clip is not None and not self.clip > 0:
            raise ValueError(
                f"clip={self.clip}: expected a positive number of standard deviations, "
                "or None"
            )

    def link(self) -> leaves.Link:
        def random(values, buckets, count, key):
            if self.clip is not None:
                real = jnp.maximum(jnp.asarray(count, jnp.float32), 1)
                mean = values.sum() / real
                squares = jnp.square(leaves.clear(values - mean, count))
                bound = self.clip * jnp.sqrt(squares.sum() / real)
                values = jnp.clip(values, -bound, bound)
                buckets = values[None]
            scale = jnp.abs(buckets).max(1, initial=0)
            return scale, _stochastic(values, buckets, scale, 1, key)

        return _leveled(random, 1, None, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sign(Codec):
    """Signs times a scale, one bit a number; a zero counts as positive.

    With the scale `mean`, `||x||_1 / m`, the error is the least that signs allow:
    `||x - C(x)||^2 = ||x||^2 - ||x||_1^2 / m`. With `projection`, `||x||^2 / ||x||_1`,
    `<x, C(x)> = ||x||^2`: the projection on `x` is kept, at the price of a larger
    error, which may be larger than `x`: feedback takes `mean`.

    Attributes:
        scale: `mean` or `projection`, which goes with `feedback="none"`.
        bucket: `m`, numbers that share a scale of 32 bits; `None` for all.

    References:
        Bernstein et al., signSGD, ICML 2018. Karimireddy et al., Error Feedback Fixes
        SignSGD and other Gradient Compression Schemes, ICML 2019 (`mean`).
    """

    scale: Literal["mean", "projection"] = "mean"
    bucket: int | None = None
    feedback: Feedback = "ef"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale == "projection" and self.feedback != "none":
            raise ValueError(
                "scale='projection' has an error that may be larger than the delta, so "
                "that feedback would diverge: use scale='mean', or feedback='none'"
            )

    def link(self) -> leaves.Link:
        link = self._link(self.scale)
        return link._replace(contracting=self._link("mean"))

    def _link(self, scale: str) -> leaves.Link:
        def signs(values, buckets, count, key):
            b, m = buckets.shape
            l1 = jnp.abs(buckets).sum(1)
            if scale == "mean":
                real = jnp.clip(count - jnp.arange(b) * m, 0, m).astype(jnp.float32)
                return l1 / jnp.maximum(real, 1), values >= 0
            # Relative to the mean magnitude, so that small squares do not vanish.
            mean = jnp.where(l1 > 0, l1, 1) / m
            squares = jnp.square(buckets / mean[:, None]).sum(1)
            return squares * mean / m, values >= 0

        return _leveled(signs, 0.5, self.bucket, 1)


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


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 2 to 16 bits a number")


def _written(code: str) -> leaves.Link:
    def encode(values, count, key, place):
        return {"values": wire.floats(values, count, code)}

    def decode(sent, n, count):
        return leaves.clear(sent["values"].values.astype(jnp.float32), count)

    return leaves.Link(encode, decode)


def _cut(values: jax.Array, size: int | None) -> jax.Array:
    """`[n]` as buckets `[b, size]`, zeros at the end; `None` is one bucket.

    The shape of a bucket does not depend on `n`, so that neither does the order in
    which its numbers are added.
    """
    if size is None:
        return values[None]
    return jnp.pad(values, (0, -len(values) % size)).reshape(-1, size)


def _leveled(
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


def _l2(buckets: jax.Array) -> jax.Array:
    """`[b]`, without overflow or underflow of the squares."""
    largest = jnp.abs(buckets).max(1, initial=0)
    unit = buckets * _inverse(largest, 1)[:, None]
    return largest * jnp.sqrt(jnp.square(unit).sum(1))


def _inverse(scale: jax.Array, levels: int) -> jax.Array:
    return jnp.where(scale > 0, levels / jnp.where(scale > 0, scale, 1), 0)


def _stochastic(
    values: jax.Array, buckets: jax.Array, scale: jax.Array, levels: int, key: jax.Array
) -> jax.Array:
    """`[n]` in 0 to `2 levels`: each number rounded up or down at random."""
    exact = (buckets * _inverse(scale, levels)[:, None]).reshape(-1)[: len(values)]
    # The sum of `exact` and a dither would be rounded, beyond a level at times.
    level = jnp.floor(exact)
    level += dither.dither(key, len(values)) < exact - level
    return jnp.clip(level, -levels, levels) + levels
