"""Parts with one deliberate fault each, as a user's file declares them.

Each docstring begins with the law that the part breaks.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from fedjax_rec import FedNCF, kind
from fedjax_rec.aggregators import fold
from fedjax_rec.codecs import leaves, wire
from fedjax_rec.codecs.feedback import Codec
from fedjax_rec.core.contracts import Aggregator
from fedjax_rec.data.partition import Partition


@kind("aggregation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class CountsAbsent:
    """A client of weight 0 is absent: each one counts here."""

    def build(self, context):
        def weigh(acc, deltas, weights, senders):
            return deltas, jnp.ones_like(weights), acc.sums + len(weights)

        def finish(acc, state, shared):
            return fold.divided(acc.total, acc.sums), state, {}

        return fold.fold(weigh, finish)


@kind("aggregation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NoBuild:
    """The methods of its slot exist: this has another name for `build`."""

    def make(self, context) -> Aggregator: ...


@kind("codec")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Miscounted(Codec):
    """The serialized message has as many bits as are counted: not with 8 for 7."""

    def link(self):
        def encode(values, count, key, place):
            levels = jnp.clip(jnp.round(values * 10), -63, 63) + 63
            field = wire.unsigned(levels, count, 8)
            return {"levels": dataclasses.replace(field, width=7)}

        def decode(sent, n, count):
            levels = sent["levels"].values.astype(jnp.float32) - 63
            return leaves.clear(levels / 10, count)

        return leaves.Link(encode, decode)


@kind("algorithm")
@dataclasses.dataclass(frozen=True, kw_only=True)
class NanLoss(FedNCF):
    """Three rounds give finite losses: not with this loss."""

    def build(self, context):
        recipe = super().build(context)

        def update(*args, **options):
            result = recipe.client_update(*args, **options)
            loss = jnp.log(-jnp.abs(result.metrics["loss"]))
            return dataclasses.replace(result, metrics={"loss": loss})

        return recipe._replace(client_update=update)


@kind("partition")
@dataclasses.dataclass(frozen=True, kw_only=True)
class OneTooMany:
    """Clients are numbered from 0: here from 1."""

    def partition(self, train):
        client = (1 + np.arange(len(train)) % 5).astype(np.int32)
        return Partition(
            client=client, num_clients=5, name="one_too_many", user_of_client=None
        )
