"""Vectors cut into buckets that have a scale each."""

import jax.numpy as jnp

from fedjax_rec.codecs.links import Count
from fedjax_rec.core.arrays import Array


def cut(values: Array, size: int | None) -> Array:
    """`[n]` as `[b, size]`, zeros at the end; `None` is one bucket.

    The shape of a bucket does not follow `n`, so neither does the order in which its
    numbers are added.
    """
    if size is None:
        return values[None]
    return jnp.pad(values, (0, -len(values) % size)).reshape(-1, size)


def uncut(buckets: Array, n: int) -> Array:
    """Undoes `cut`."""
    return buckets.reshape(-1)[:n]


def number(count: Count, size: int | None) -> Count:
    """Of buckets with something in them; one in any case if there is only one."""
    return 1 if size is None else -(-count // size)


def filled(count: Count, buckets: Array) -> Array:
    """`[b]` float32: how many numbers of each bucket are real."""
    b, size = buckets.shape
    start = jnp.arange(b) * size
    return jnp.clip(count - start, 0, size).astype(jnp.float32)


def check(size: int | None) -> None:
    """Raises `ValueError` unless `size` is `None` or at least 1."""
    if size is not None and size < 1:
        raise ValueError(f"a bucket has at least 1 number, got {size}")
