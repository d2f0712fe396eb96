"""Quantizers: every number in a few bits, with a scale for each bucket of numbers."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.codecs.feedback import Codec, Feedback

with epy.lazy_imports():
    import jax.numpy as jnp

    from fedjax_rec.codecs import evenly, leaves, wire


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
            level = jnp.round(buckets * evenly.inverse(scales, levels)[:, None])
            return scales, level.reshape(-1)[: len(values)] + levels

        return evenly.leveled(nearest, levels, self.block, self.bits)


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

    Feedback needs a smaller error than `||x||^2`, so that under it a bucket's norm is
    sent times `||x||^2 / (||x||^2 + E ||Q(x) - x||^2)`.

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

        def scale(buckets, count):
            if self.norm == "l2":
                return buckets, evenly.l2(buckets)
            return buckets, jnp.abs(buckets).max(1)

        return evenly.stochastic(scale, levels, self.bucket, self.bits)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TernGrad(Codec):
    """Stochastic -1, 0 or 1 times the largest magnitude; five to a byte, 1.6 bits each.

    Unbiased but for the clipping, which keeps the largest magnitude small: the error of
    1000 normal numbers falls from 1.74 to 1.01 of their squared norm. Under feedback it
    is scaled as `QSGD`.

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
        def clipped(buckets, count):
            if self.clip is not None:
                real = jnp.maximum(jnp.asarray(count, jnp.float32), 1)
                values = buckets[0]
                mean = values.sum() / real
                squares = jnp.square(leaves.clear(values - mean, count))
                bound = self.clip * jnp.sqrt(squares.sum() / real)
                buckets = jnp.clip(buckets, -bound, bound)
            return buckets, jnp.abs(buckets).max(1, initial=0)

        return evenly.stochastic(clipped, 1, None, None)


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

        return evenly.leveled(signs, 0.5, self.bucket, 1)


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 16:
        raise ValueError(f"bits={bits}: expected 2 to 16 bits a number")


def _written(code: str) -> leaves.Link:
    def encode(values, count, key, place):
        return {"values": wire.floats(values, count, code)}

    def decode(sent, n, count):
        return leaves.clear(sent["values"].values.astype(jnp.float32), count)

    return leaves.Link(encode, decode)
