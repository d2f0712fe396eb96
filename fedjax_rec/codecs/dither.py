"""Random numbers for stochastic rounding."""

import jax
import jax.numpy as jnp


def dither(key: jax.Array, n: int) -> jax.Array:
    """`[n]` uniform in (0, 1), of 23 bits; the first numbers do not depend on `n`.

    A hash of the place and of two words drawn from the key (the finalizer of
    MurmurHash3, twice keyed): rounding needs even and independent odds, not secrecy,
    and Threefry took four times as long as the rest of QSGD.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    h = jnp.arange(n, dtype=jnp.uint32) * jnp.uint32(0x9E3779B9) + first
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13) ^ second) * jnp.uint32(0xC2B2AE35)
    h = h ^ (h >> 16)
    return uniform(h)


def uniform(words: jax.Array) -> jax.Array:
    """The centers of `2^23` even intervals of (0, 1), by random words of 32 bits.

    A float32 holds these exactly; a center of one of `2^24` may be rounded to 1.
    """
    return ((words >> 9).astype(jnp.float32) + 0.5) * 2.0**-23
