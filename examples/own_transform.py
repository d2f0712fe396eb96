"""A message transform of one's own: clipping of a whole delta, before a codec.

    fedjax-rec train fedavg_synthetic --plugin examples/own_transform.py \\
        --codec clipped --codec.norm 0.5
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.core import messages, rows
from fedjax_rec.core.checks import check_ranges


@fr.kind("codec")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Clipped:
    """Scales a delta down to a largest norm.

    Attributes:
        norm: largest 2-norm over all leaves.
        then: codec of the clipped delta; `None` sends float32.
    """

    norm: float = 1.0
    then: Any = None

    def __post_init__(self):
        check_ranges(self, norm="(0, inf)")

    def build(self, context):
        def encode(delta, state, sender):
            squares = [jnp.square(x).sum() for x in rows.values_of(delta)]
            norm = jnp.sqrt(sum(squares))
            scale = jnp.minimum(1, self.norm / jnp.maximum(norm, 1e-30))
            return rows.map_values(lambda x: scale * x, delta), state

        clip = messages.MessageTransform(lambda shared: (), encode, counted=False)
        if self.then is None:
            return clip
        return messages.chain(clip, self.then.build(context))
