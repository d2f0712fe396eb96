"""An attack of one's own: attackers send what the server sent, and a constant.

    fedjax-rec train fedavg_synthetic --plugin examples/own_attack.py \\
        --attack constant --attack.share 0.2 --aggregation median
"""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.attacks.false_deltas import Attack, attacked
from fedjax_rec.core import rows


@fr.kind("attack")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant(Attack):
    """Attackers send the number `scale` in every place of their delta.

    Attributes:
        share: share of the population that attacks.
        scale: the number.
        seed: seed of the attackers.
    """

    def build(self, context):
        def falsify(delta, sender, key):
            return rows.map_values(lambda x: jnp.full_like(x, self.scale), delta)

        return attacked(context, self, falsify)
