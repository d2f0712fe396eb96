"""Random rotations, after which coarse quantizers have a smaller error."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.codecs.feedback import Codec
from fedjax_rec.codecs.quantize import QSGD, Sign

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec.codecs import leaves, wire

_UNROLLED = 512
"""Numbers of a block for which sums and differences are written out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotatedQSGD(Codec):
    """Rotates each block at random, and sends it by `QSGD` with a norm for each block.

    Attributes:
        bits: bits of a number, 2 to 16.
        norm: as in `QSGD`.
        block: numbers that are rotated together, a power of two.

    References:
        Suresh et al., Distributed Mean Estimation with Limited Communication, ICML
        2017.
    """

    bits: int = 4
    norm: Literal["l2", "max"] = "max"
    block: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.block)
        self._quantizer()

    def _quantizer(self) -> QSGD:
        return QSGD(bits=self.bits, norm=self.norm, bucket=self.block)

    def link(self) -> leaves.Link:
        return rotated(self._quantizer().link(), self.block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drive(Codec):
    """Rotates each block at random, and sends signs that keep the projection on it.

    The paper rotates a whole vector; here the scales of blocks cost `32 / block` bits a
    number, and a table of few rows is not padded to a power of two. Under a uniformly
    random rotation this is unbiased; a Hadamard transform with random signs comes
    close to one. Feedback takes the scale with the least error, `||x||_1 / block`, as
    DRIVE without the need to be unbiased.

    Attributes:
        block: numbers that are rotated together, a power of two.

    References:
        Vargaftik et al., DRIVE: One-bit Distributed Mean Estimation, NeurIPS 2021.
    """

    block: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block(self.block)

    def link(self) -> leaves.Link:
        signs = Sign(bucket=self.block, scale="projection", feedback="none")
        return rotated(signs.link(), self.block)


def check_block(block: int) -> None:
    """Raises a ValueError unless `block` is a power of two."""
    if block < 1 or block & (block - 1):
        raise ValueError(f"block={block}: expected a power of two")


def rotated(then: leaves.Link, block: int = 256) -> leaves.Link:
    """Rotates each block: random signs from a seed, then a Hadamard transform.

    The last block is filled up with zeros, and all of it goes to the next link.

    Args:
        then: codec of the rotated vector.
        block: a power of two; a dense leaf with fewer numbers is one block of its next
            power of two.
    """
    check_block(block)

    def sizes(n: int, count: leaves.Count) -> tuple[int, int, leaves.Count]:
        """`(width, n, count)` of the rotated vector."""
        width = block
        if isinstance(count, int):
            width = min(block, 1 << max(count - 1, 0).bit_length())
        return width, -(-n // width) * width, -(-count // width) * width

    def encode(values, count, key, place):
        seed = jax.random.bits(jax.random.fold_in(key, place), (), jnp.uint32)
        width, m, real = sizes(len(values), count)
        values = jnp.pad(values, (0, m - len(values))) * _random_signs(seed, m)
        values = _hadamard(values.reshape(-1, width)).reshape(-1)
        return {
            "seed": wire.unsigned(seed[None], 1, 32),
            "then": then.encode(values, real, key, place + 1),
        }

    def decode(sent, n, count):
        width, m, real = sizes(n, count)
        values = then.decode(sent["then"], m, real)
        values = _hadamard(values.reshape(-1, width)).reshape(-1)
        values = values * _random_signs(sent["seed"].values[0], m)
        return leaves.clear(values[:n], count)

    contracting = None
    if then.contracting is not None:
        contracting = rotated(then.contracting, block)
    return leaves.Link(encode, decode, contracting=contracting)


def _random_signs(seed: jax.Array, m: int) -> jax.Array:
    """`[m]` of -1 and 1; the first do not depend on `m`."""
    words = jax.random.bits(jax.random.key(seed), (-(-m // 32),), jnp.uint32)
    bits = words[:, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return 1 - 2 * bits.reshape(-1)[:m].astype(jnp.float32)


def _hadamard(x: jax.Array) -> jax.Array:
    """`[b, w]`, each row times the orthonormal Hadamard matrix, its own inverse.

    `H_ab = H_a (x) H_b`: within 32 numbers as a product, beyond by sums and differences
    of whole runs. On a CPU half the time of two products with 16 x 16 matrices.
    """
    b, w = x.shape
    if w > _UNROLLED:
        inside = _hadamard(x.reshape(-1, _UNROLLED)).reshape(b, -1, _UNROLLED)
        outside = _hadamard(jnp.swapaxes(inside, 1, 2).reshape(b * _UNROLLED, -1))
        return jnp.swapaxes(outside.reshape(b, _UNROLLED, -1), 1, 2).reshape(b, w)
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
    i = np.arange(w)
    signs = (-1.0) ** np.bitwise_count(i[:, None] & i)
    return (signs / np.sqrt(w)).astype(np.float32)
