"""Rules, codecs and backbones with one deliberate fault each, as in `faulty`."""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.aggregators.robust import ballots, blocks

part = dataclasses.dataclass(frozen=True, kw_only=True)


def weighted(weigh):
    """A rule that adds up deltas with factors `weigh(voters [C, p])`."""

    def decide(xs, voters, weights, state):
        return blocks.weighted_sums(weigh(voters), xs), state, {}

    return ballots.buffered(blocks.by_block(decide, lambda n: 0 * n), "dense", share=0)


@fr.kind("aggregation")
@part
class CountsSlots:
    """A client of weight 0 is absent: the mean is over all slots here."""

    def build(self, context):
        return weighted(lambda voters: voters / len(voters))


@fr.kind("aggregation")
@part
class BySlot:
    """Clients fold in any grouping and order: later slots weigh more here."""

    def build(self, context):
        def weigh(voters):
            place = voters * jnp.arange(1, 1 + len(voters))[:, None]
            return place / jnp.maximum(place.sum(0), 1)

        return weighted(weigh)
