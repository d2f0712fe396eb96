"""Rules, codecs and backbones with one deliberate fault each, as in `faulty`."""

import dataclasses

import jax.numpy as jnp

import fedjax_rec as fr
from fedjax_rec.aggregators.robust import ballots, blocks
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.codecs import leaves, wire
from fedjax_rec.codecs.feedback import Codec

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sent(Codec):
    """Sends `send(values)` as float32, or as 8-bit levels in fewer bits."""

    width: int = 32

    def send(self, values):
        return values

    def read(self, values, count):
        return leaves.clear(values, count)

    def link(self):
        def encode(values, count, key, place):
            values = self.send(values)
            if self.width == 32:
                return {"x": wire.floats(values, count)}
            levels = jnp.clip(jnp.round(values * 10), -127, 127) + 127
            return {"x": wire.unsigned(levels, count, self.width)}

        def decode(sent, n, count):
            values = sent["x"].values.astype(jnp.float32)
            values = (values - 127) / 10 if self.width < 32 else values
            return self.read(values, count)

        return leaves.Link(encode, decode)


@fr.kind("codec")
@part
class Narrow(Sent):
    """`decode` reads only what was sent: 254 in 5 bits here."""

    width: int = 5


@fr.kind("codec")
@part
class Uncleared(Sent):
    """`decode` reads only what was sent: padding is not cleared here."""

    width: int = 8

    def read(self, values, count):
        return values


@fr.kind("codec")
@part
class Ascent(Sent):
    """Positive and negative numbers are decoded with their signs: not here."""

    def send(self, values):
        return -jnp.sign(values) * jnp.abs(values).max()


@fr.kind("codec")
@part
class OnlyPositive(Sent):
    """Positive and negative numbers are decoded with their signs: zeros here."""

    def send(self, values):
        return jnp.maximum(values, 0)


@fr.kind("backbone")
@part
class NoHooks(fr.BackboneConfig):
    """An adapter's hook changes the states: none is called here."""

    def load(self, progress=False):
        backbone, weights = tiny(width=8, num_layers=2, num_heads=2)

        def run(stack, hidden, layout, adapter=None, params=None):
            return backbone.run(stack, hidden, layout, None, None)

        return backbone._replace(run=run), weights
