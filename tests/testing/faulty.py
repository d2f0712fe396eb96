"""Parts with one deliberate fault each, as a user's file declares them.

Each docstring begins with the law that the part breaks.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import fedjax_rec as fr
from fedjax_rec.aggregators import fold
from fedjax_rec.attacks.false_deltas import attacked
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.codecs import leaves, wire
from fedjax_rec.codecs.feedback import Codec
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Aggregator, Model, Params
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits.split import split_by
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.fleet.sampling import uniform

part = dataclasses.dataclass(frozen=True, kw_only=True)


@fr.kind("aggregation")
@part
class CountsAbsent:
    """A client of weight 0 is absent: each one counts here."""

    def build(self, context):
        def weigh(acc, deltas, weights, senders):
            return deltas, jnp.ones_like(weights), acc.sums + len(weights)

        def finish(acc, state, shared):
            return fold.divided(acc.total, acc.sums), state, {}

        return fold.fold(weigh, finish)


@fr.kind("aggregation")
@part
class NotLinear:
    """`linear` is declared only if: weights depend on the deltas here."""

    def build(self, context):
        def weigh(deltas, weights, senders, lengths):
            return 1 / (1 + jnp.abs(deltas["w"]).sum(1))

        return fold.mean(weigh, linear=True)


@fr.kind("aggregation")
@part
class NoBuild:
    """The methods of its slot exist: this has another name for `build`."""

    def make(self, context) -> Aggregator: ...


@fr.kind("codec")
@part
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


@fr.kind("algorithm")
@part
class NanLoss(fr.PFedRec):
    """Three rounds give finite losses: not with this loss."""

    def build(self, context):
        recipe = super().build(context)

        def update(*args, **options):
            result = recipe.client_update(*args, **options)
            loss = jnp.log(-jnp.abs(result.metrics["loss"]))
            return dataclasses.replace(result, metrics={"loss": loss})

        return recipe._replace(client_update=update)


@fr.kind("wrapper")
@part
class Frozen:
    """Every shared group learns: no group does here."""

    def build(self, context):
        recipe = context.recipe

        def update(*args, **options):
            result = recipe.client_update(*args, **options)
            still = rows.map_values(jnp.zeros_like, result.delta)
            return dataclasses.replace(result, delta=still)

        return recipe._replace(client_update=update)


@fr.kind("model")
@part
class MeanOverAll:
    """Masked pairs change neither the loss: the mean has all pairs here."""

    dim: int = 4

    def build(self, context):
        def init(key):
            item = 0.1 * jax.random.normal(key, (context.num_items, self.dim))
            user = 0.1 * jax.random.normal(key, (self.dim,))
            shared = {"item": rows.Table(values=item)}
            return Params(shared=shared, personal={"user": user})

        def score(params, frozen, query, items):
            return rows.lookup(params.shared["item"], items) @ params.personal["user"]

        def loss(params, frozen, batch, key, hparams):
            error = score(params, frozen, batch, batch["item"]) - batch["label"]
            return jnp.square(error).mean(), {}

        return Model(init, loss, score)


@fr.kind("attack")
@part
class Everyone:
    """Attackers send something else, and honest clients: none is honest here."""

    def build(self, context):
        settings = dataclasses.make_dataclass("All", ["share", "seed"])(1.0, 0)
        return attacked(
            context, settings, lambda d, s, k: rows.map_values(lambda x: -x, d)
        )


@fr.kind("partition")
@part
class OneTooMany:
    """Every training interaction is on one client: clients count from 1 here."""

    def partition(self, train):
        client = (1 + np.arange(len(train)) % 5).astype(np.int32)
        return Partition(
            client=client, num_clients=5, name="one_too_many", user_of_client=None
        )


@fr.kind("split")
@part
class FirstIsTest:
    """With `by_time`, a user's test interactions: the first of each is test here."""

    def split(self, data):
        first = np.r_[True, data.user[1:] != data.user[:-1]]
        none = np.zeros(len(data), bool)
        return split_by(data, val=none, test=first, name="first", info={})


@fr.kind("data")
@part
class Drifting:
    """Loading twice gives the same interactions: each load has other ones here."""

    calls: ClassVar[list] = []

    def load(self, progress):
        self.calls.append(1)
        sizes = {"num_users": 12, "num_items": 20, "num_interactions": 90}
        return synthetic(len(self.calls), **sizes)


@fr.kind("backbone")
@part
class ReadsNeighbours(fr.BackboneConfig):
    """A text's vector is the same in a row with others: they mix here."""

    def load(self, progress=False):
        backbone, weights = tiny(width=8, num_layers=2, num_heads=2)

        def run(stack, hidden, layout, adapter=None, params=None):
            hidden = backbone.run(stack, hidden, layout, adapter, params)
            return hidden + 0.1 * hidden.mean(-2, keepdims=True)

        return backbone._replace(run=run), weights


@fr.kind("metric")
@part
class CountsKnown:
    """Items that are no candidates change nothing: their scores count here."""

    names: ClassVar[tuple[str, ...]] = ("top_score",)

    def build(self, train):
        return lambda ranking: {"top_score": ranking.scores.max()}


@fr.kind("cohort")
@part
class Ascends:
    """Ids ascend from 0: they descend here."""

    size: int = 8

    def slots(self, num_clients):
        return self.size

    def check(self, fleet):
        """Any devices fit."""

    def describe(self, fleet):
        return {}, ()

    def build(self, fleet):
        sampler = uniform(len(fleet.examples), self.size)

        def sample(tables, key, number):
            drawn = sampler.sample(tables, key, number)
            return dataclasses.replace(drawn, ids=drawn.ids[::-1])

        return sampler._replace(sample=sample)


@fr.kind("client_optimizer")
@part
class HiddenState:
    """`states` is the number of values kept: 1, and not 0 as declared here."""

    lr: float = 0.1

    traced: ClassVar[tuple[str, ...]] = ("lr",)
    states: ClassVar[int] = 0
    momentum: ClassVar[float] = 0.9

    def build(self):
        return optax.sgd(self.lr, momentum=0.9)


@fr.kind("server_optimizer")
@part
class Climbs:
    """Updates are like the parameters, finite, and point against: up here."""

    lr: float = 0.1

    traced: ClassVar[tuple[str, ...]] = ("lr",)

    def build(self):
        return optax.scale(self.lr)


@fr.kind("algorithm")
@part
class WrongSteps(fr.FedMF):
    """`local.steps` and `local.rate` are the steps: twice as many declared here."""

    dim: int = 4

    def build(self, context):
        recipe = super().build(context)
        steps = recipe.local.steps
        local = recipe.local._replace(steps=lambda examples: 2 * steps(examples))
        return recipe._replace(local=local)


@fr.kind("training")
@part
class TakesNothing(fr.Joint):
    """The methods of its slot exist and take their arguments: none is taken here."""

    def build(self): ...


@fr.kind("adapter")
@part
class HasList:
    """Settings can be hashed: a list cannot."""

    targets: list = dataclasses.field(default_factory=lambda: ["query"])

    def build(self, base=False): ...


@fr.kind("users")
@part
class OfflineOnly(fr.History):
    """A flag can set every field: there is no text for an array."""

    weights: np.ndarray = dataclasses.field(default=np.float32(3))  # pyright: ignore
