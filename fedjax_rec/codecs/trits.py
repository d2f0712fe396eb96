"""Numbers 0, 1, 2: five of them in a byte, since 3^5 = 243."""

import jax.numpy as jnp

from fedjax_rec.codecs.links import Count
from fedjax_rec.core.arrays import Array

_WEIGHTS = (1, 3, 9, 27, 81)


def number(count: Count) -> Count:
    """Of bytes that `count` numbers take."""
    return -(-count // 5)


def pack(values: Array) -> Array:
    """`[n]` as `[ceil(n / 5)]` int32 below 243.

    >>> pack(jnp.array([2, 0, 1, 0, 0, 2])).tolist()
    [11, 2]
    """
    values = values.astype(jnp.int32)
    padded = jnp.pad(values, (0, -len(values) % 5)).reshape(-1, 5)
    return (padded * jnp.array(_WEIGHTS)).sum(1)


def unpack(packed: Array, n: int) -> Array:
    """The first `n` of the numbers."""
    packed = packed.astype(jnp.int32)[:, None]
    return (packed // jnp.array(_WEIGHTS) % 3).reshape(-1)[:n]
