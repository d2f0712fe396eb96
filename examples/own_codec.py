"""A codec of one's own: numbers as multiples of a fixed step, one byte each.

    fedjax-rec train fedavg_synthetic --plugin examples/own_codec.py \\
        --codec fixed_point --codec.step 0.01
"""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.codecs import leaves, wire
from fedjax_rec.codecs.feedback import Codec
from fedjax_rec.core.checks import check_ranges


@fr.kind("codec")
@dataclasses.dataclass(frozen=True, kw_only=True)
class FixedPoint(Codec):
    """Rounds to the nearest multiple of `step`, from -127 to 127 of them.

    Attributes:
        step: distance of two levels, in the unit of the deltas.
    """

    step: float = 1e-3

    def __post_init__(self):
        check_ranges(self, step="(0, inf)")

    def link(self):
        """The codec of a vector: `count` real numbers, then padding."""

        def encode(values, count, key, place):
            level = jnp.clip(jnp.round(values / self.step), -127, 127)
            return {"levels": wire.unsigned(level + 127, count, 8)}

        def decode(sent, n, count):
            level = sent["levels"].values.astype(jnp.float32) - 127
            return leaves.clear(level * self.step, count)

        return leaves.Link(encode, decode)
