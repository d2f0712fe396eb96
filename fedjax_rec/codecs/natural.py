"""Natural compression: numbers rounded at random to powers of two."""

from __future__ import annotations

import dataclasses

from etils import epy

from fedjax_rec.codecs.feedback import Codec

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import dither, leaves, wire

_FRACTION = 23
"""Bits of a float32 below its sign and exponent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NaturalCompression(Codec):
    """Stochastic rounding to a power of two: unbiased, 9 bits a number, no scale.

    `|x|` in `[2^k, 2^(k+1))` becomes `2^(k+1)` with probability `|x| / 2^k - 1`, else
    `2^k`. Sign and exponent of a float32 are sent, and its fraction is the probability.
    `E (C(x) - x)^2 <= x^2 / 8` for every number, except those below `2^-126`, which
    become 0 or `2^-126`. Zeros stay zeros. Numbers from `2^127` on are rounded down,
    not to infinity.

    References:
        Horvath et al., Natural Compression for Distributed Deep Learning,
        arXiv:1905.10988, 2019, definition 1.
    """

    def link(self) -> leaves.Link:
        """The codec of a vector."""

        def encode(values, count, key, place):
            raw = jax.lax.bitcast_convert_type(values, jnp.uint32)
            code = raw >> _FRACTION
            fraction = raw & (2**_FRACTION - 1)
            odds = fraction.astype(jnp.float32) * 2.0**-_FRACTION
            uniform = dither.dither(jax.random.fold_in(key, place), len(values))
            up = (uniform < odds) & (code & 0xFF < 254)
            return {"codes": wire.unsigned(code + up, count, 9)}

        def decode(sent, n, count):
            raw = sent["codes"].values.astype(jnp.uint32) << _FRACTION
            values = jax.lax.bitcast_convert_type(raw, jnp.float32)
            return leaves.clear(values, count)

        return leaves.Link(encode, decode)
