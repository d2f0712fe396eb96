"""One bit a number: signs with a scale, plain or after a random rotation."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.codecs import buckets
from fedjax_rec.codecs.links import (
    Chain,
    Count,
    Parts,
    Quantizer,
    Stage,
    chain,
    clear,
)
from fedjax_rec.codecs.wire import floats, unsigned
from fedjax_rec.core.arrays import Array


def sign(bucket: int | None = None, scale: str = "mean") -> Quantizer:
    """Signs, times a scale; a zero counts as positive.

    With `mean`, `||x||_1 / m`, the error is the least that signs allow:
    `||x - C(x)||^2 = ||x||^2 - ||x||_1^2 / m`. With `projection`, `||x||^2 / ||x||_1`,
    `<x, C(x)> = ||x||^2`: nothing of `x` is lost on the average, at the price of a
    larger error.

    Args:
        bucket: `m`, numbers that share a scale of 32 bits; `None` for all.
        scale: `mean` or `projection`.

    Raises:
        ValueError: for another scale.

    References:
        Bernstein et al., signSGD, ICML 2018. Karimireddy et al., Error Feedback Fixes
        SignSGD and other Gradient Compression Schemes, ICML 2019 (`mean`).
    """
    if scale not in ("mean", "projection"):
        raise ValueError(f"scale is 'mean' or 'projection', got {scale!r}")
    buckets.check(bucket)

    def encode(values: Array, count: Count, key: Array) -> Parts:
        del key
        cut = buckets.cut(values, bucket)
        l1 = jnp.abs(cut).sum(1)
        if scale == "mean":
            scales = l1 / jnp.maximum(buckets.filled(count, cut), 1)
        else:
            # Of numbers divided by their mean, so that small squares do not vanish.
            mean = jnp.where(l1 > 0, l1, 1) / cut.shape[1]
            squares = jnp.square(cut / mean[:, None]).sum(1)
            scales = squares * mean / cut.shape[1]
        return {
            "scales": floats(scales, buckets.number(count, bucket)),
            "signs": unsigned(values >= 0, count, 1),
        }

    def decode(parts: Parts, n: int, count: Count) -> Array:
        signs = 2 * parts["signs"].values.astype(jnp.float32) - 1
        cut = buckets.cut(signs, bucket) * parts["scales"].values[:, None]
        return clear(buckets.uncut(cut, n), count)

    return Quantizer(encode, decode)


def rotate(block: int = 256) -> Stage:
    """A random rotation of each block: signs from a seed, then a Hadamard transform.

    It spreads what is large over its block, after which coarse quantizers err less. The
    last block is filled up with zeros, and all of it goes to the next link.

    Args:
        block: a power of two; a dense leaf below it takes its next power of two.

    Raises:
        ValueError: if `block` is not a power of two.

    References:
        Suresh et al., Distributed Mean Estimation with Limited Communication, ICML
        2017.
    """
    if block < 1 or block & (block - 1):
        raise ValueError(f"a block is a power of two, got {block}")

    def width(count: Count) -> int:
        if isinstance(count, int):
            return min(block, 1 << max(count - 1, 0).bit_length())
        return block

    def passed(parts: Parts, n: int, count: Count) -> tuple[int, Count]:
        del parts
        w = width(count)
        return -(-n // w) * w, -(-count // w) * w

    def encode(values: Array, count: Count, key: Array):
        seed = jax.random.bits(key, (), jnp.uint32)
        m, rotated = passed({}, len(values), count)
        values = jnp.pad(values, (0, m - len(values))) * _random_signs(seed, m)
        values = _hadamard(values.reshape(-1, width(count))).reshape(-1)
        return {"seed": unsigned(seed[None], 1, 32)}, values, rotated

    def decode(parts: Parts, values: Array, n: int, count: Count) -> Array:
        values = _hadamard(values.reshape(-1, width(count))).reshape(-1)
        values = values * _random_signs(parts["seed"].values[0], len(values))
        return clear(values[:n], count)

    return Stage(encode, passed, decode)


def drive(block: int = 256) -> Chain:
    """Rotation, then signs with the scale that keeps the projection on the vector.

    In blocks, where the paper rotates a whole vector: the blocks' scales cost
    `32 / block` bits a number, and a table of few rows is not filled up to a power of
    two. Under a uniformly random rotation this is unbiased; a Hadamard transform with
    random signs comes close to one, but is not exactly that.

    Args:
        block: as of `rotate`.

    References:
        Vargaftik et al., DRIVE: One-bit Distributed Mean Estimation, NeurIPS 2021.
    """
    return chain(rotate(block), sign(block, "projection"))


def _random_signs(seed: Array, m: int) -> Array:
    """`[m]` of -1 and 1; the first do not depend on `m`."""
    words = jax.random.bits(jax.random.key(seed), (-(-m // 32),), jnp.uint32)
    bits = words[:, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return 1 - 2 * bits.reshape(-1)[:m].astype(jnp.float32)


_RUNS = 512
"""Numbers of a block whose sums and differences are written out."""


def _hadamard(x: Array) -> Array:
    """`[b, w]`, each row times the orthonormal Hadamard matrix, its own inverse.

    `H_ab = H_a (x) H_b`: within 32 numbers as a product, beyond by sums and differences
    of whole runs. On a CPU half the time of two products with 16 x 16 matrices.
    """
    b, w = x.shape
    if w > _RUNS:  # what is unrolled below stays short
        inside = _hadamard(x.reshape(-1, _RUNS)).reshape(b, -1, _RUNS)
        outside = _hadamard(jnp.swapaxes(inside, 1, 2).reshape(b * _RUNS, -1))
        return jnp.swapaxes(outside.reshape(b, _RUNS, -1), 1, 2).reshape(b, w)
    inner = min(w, 32)
    inside = jnp.matmul(
        x.reshape(-1, inner), _matrix(inner), precision=jax.lax.Precision.HIGHEST
    )
    runs = list(jnp.moveaxis(inside.reshape(b, w // inner, inner), 1, 0))
    half = 1
    while half < len(runs):
        for i in range(0, len(runs), 2 * half):
            for j in range(i, i + half):
                x, y = runs[j], runs[j + half]
                runs[j], runs[j + half] = x + y, x - y
        half *= 2
    return jnp.stack(runs, 1).reshape(b, w) * (inner / w) ** 0.5


def _matrix(w: int) -> np.ndarray:
    h = np.ones((1, 1))
    while len(h) < w:
        h = np.block([[h, h], [h, -h]])
    return (h / np.sqrt(w)).astype(np.float32)
