"""An aggregation rule of one's own: the mean of the smaller half of the deltas.

    fedjax-rec train fedavg_synthetic --plugin examples/own_rule.py \\
        --aggregation smallest --aggregation.portion 0.7
"""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.aggregators.robust import ballots, blocks
from fedjax_rec.core.checks import check_ranges


@fr.kind("aggregation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Smallest:
    """The mean of the deltas with the smallest norms, all clients counting the same.

    Attributes:
        portion: portion of the present clients that is kept.
    """

    portion: float = 0.5

    def __post_init__(self):
        check_ranges(self, portion="(0, 1]")

    def build(self, context):
        def mean(xs, voters, weights, state):
            """One decision: `xs` are the clients' leaves `[C, 1, p]`."""
            norms = blocks.distances(xs, [jnp.zeros(()) for _ in xs])
            norms = jnp.where(voters, norms, jnp.inf)
            count = jnp.ceil(self.portion * voters.sum(0)).astype(jnp.int32)
            place = jnp.argsort(jnp.argsort(norms, axis=0), axis=0)
            kept = (place < count) & voters
            share = kept / jnp.maximum(kept.sum(0), 1)
            return blocks.weighted_sums(share, xs), state, {"kept": kept.sum(0)}

        def tolerates(num_voters):  # attackers, for the report
            return 0 * num_voters

        rule = blocks.by_block(mean, tolerates)
        return ballots.buffered(rule, "dense", share=0.0)
