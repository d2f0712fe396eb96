"""Weights guided by a foundation model's embeddings of the clients' items.

Each client sends a profile in addition to its delta: the mean embedding of its items'
texts, computed on its device and clipped. Similar profiles predict similar deltas, and
a client that disagrees with the prediction counts less. The same rule with similarities
of the deltas needs no foundation model, and is its control.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

from etils import epy

from fedjax_rec.clients.profile import ClientProfile
from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import polled
    from fedjax_rec.core import contracts, count_sketch


PROFILE = "profile"
"""Personal group of a client's profile `[p]`, and its name in `Senders.extras`."""

LARGEST = 3.0
"""Standard deviations to which signals are clipped."""

Likeness = Literal["profile", "update"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guided:
    """A weighted mean with weights from profiles and the deltas' agreement with them.

    It replaces the aggregation rule. The logarithm of a weight is the sum of signals,
    each in standard deviations over the cohort (clipped to ±3) times its factor below,
    and of `examples` times the logarithm of the number of examples.

    Memory: the deltas of the cohort, `C` times the shared parameters, and `C (sketch +
    p)` numbers. Inner products of deltas are those of their count sketches, with an
    error of about `1 / sqrt(sketch)` of the norms. `info` has `weight_entropy` (1 for
    equal weights), `profile_prediction` (mean cosine of a delta and its prediction from
    the others), and `largest_weight` (times the number of clients).

    It has not been shown to help here: on ML-100K with 100 skewed clients, every paired
    interval of its differences to the mean by examples, to shuffled and random profiles
    and to `likeness="update"` contains 0, over six seeds (docs/aggregation.md). It does
    not resist attacks either: identical false deltas predict each other.

    Attributes:
        likeness: similarity of clients: cosine of their `profile`s, or of their deltas
            (`update`).
        profile: the client profiles, for `likeness="profile"`.
        examples: 1 weighs as FedAvg does, 0 the same for all.
        similarity: factor of the mean similarity to the other clients.
        norm: factor of the logarithm of the delta's norm.
        agreement: factor of the cosine of the delta and the mean of all others.
        staleness: factor of the number of rounds since the client last took part.
        loss_drop: factor of the decrease of its loss since then.
        outlier: factor of the disagreement of the delta and its prediction, one minus
            their cosine; subtracted if it is above the cohort's mean.
        temperature: temperature of the likeness `exp(cosine / temperature)` by which
            others' deltas predict a client's.
        sketch: length of a sketch.
        then: wrapper that is applied next.
    """

    likeness: Likeness = "profile"
    profile: ClientProfile = dataclasses.field(default_factory=ClientProfile)
    examples: float = 1.0
    similarity: float = 0.0
    norm: float = 0.0
    agreement: float = 0.0
    staleness: float = 0.0
    loss_drop: float = 0.0
    outlier: float = 1.0
    temperature: float = 0.2
    sketch: int = 1024
    then: Any = None

    brings: ClassVar = ("aggregation",)

    def __post_init__(self) -> None:
        check_settings(self, temperature="(0, inf)", sketch="[1, inf)")

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: `likeness="profile"`, and the data have no texts.
        """
        recipe = self._weighed(context)
        if self.then is None:
            return recipe
        return self.then.build(context.with_recipe(recipe))

    def _weighed(self, context: Context) -> contracts.Recipe:
        recipe = context.recipe
        if self.likeness == "update":
            return recipe._replace(aggregator=guided(self, context.num_clients))
        profiles = self.profile.vectors(context)
        width = profiles.shape[1]
        return recipe._replace(
            client_update=with_profile(recipe.client_update),
            aggregator=guided(self, context.num_clients, width),
            constants={**(recipe.constants or {}), PROFILE: profiles},
        )


def with_profile(train: contracts.ClientUpdate) -> contracts.ClientUpdate:
    """Local training that also sends the personal group `PROFILE`."""

    def update(params, frozen, examples, hparams, key, **options):
        personal = dict(params.personal)
        profile = personal.pop(PROFILE)
        params = contracts.Params(shared=params.shared, personal=personal)
        result = train(params, frozen, examples, hparams, key, **options)
        return result.extended(personal={PROFILE: profile}, extras={PROFILE: profile})

    return update


class Seen(NamedTuple):
    """The server's state.

    Attributes:
        round: int32 scalar, number of finished rounds.
        last: `[N]` int32, the round in which a client last took part, from 1; 0 if
            never.
        loss: `[N]`, its loss in that round.
    """

    round: jax.Array
    last: jax.Array
    loss: jax.Array


def guided(settings: Guided, num_clients: int, width: int = 0) -> contracts.Aggregator:
    """The aggregator of `Guided`, for profiles of `width` numbers."""

    def start(shared: Any) -> Seen:
        zeros = jnp.zeros(num_clients, jnp.int32)
        return Seen(jnp.int32(0), zeros, zeros.astype(fold.scalar(shared).dtype))

    def init(shared: Any, cohort_size: int) -> polled.Polled:
        return polled.empty(shared, cohort_size, {PROFILE: width})

    def update(acc: polled.Polled, deltas: Any, weights: jax.Array, senders):
        profile = senders.extras[PROFILE] if width else jnp.zeros((len(weights), 0))
        return polled.written(acc, deltas, weights, senders, {PROFILE: profile})

    def finish(acc: polled.Polled, state: Seen, shared: Any):
        ids = acc.ids
        weight, info = _weigh(settings, acc, ids, state)
        ids = jnp.where(acc.ballots.voters, ids, num_clients)
        new = Seen(
            state.round + 1,
            state.last.at[ids].set(state.round + 1, mode="drop"),
            state.loss.at[ids].set(acc.loss, mode="drop"),
        )
        delta = jax.tree.map(
            lambda x: fold.dot(weight.astype(x.dtype), x), acc.ballots.deltas
        )
        return delta, new, info

    numbers = width + bool(settings.loss_drop)
    return contracts.Aggregator(init, update, finish, start, numbers=numbers)


def _weigh(settings: Guided, acc: polled.Polled, ids: jax.Array, state: Seen):
    """Weights `[C]` with sum one, and the metrics."""
    present, sketch, loss = acc.ballots.voters, _sketches(settings, acc), acc.loss
    vectors = sketch
    if settings.likeness == "profile":
        vectors = acc.numbers.deltas[PROFILE]
    others = present & present[:, None] & ~jnp.eye(len(present), dtype=bool)
    unit = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    alike = unit @ unit.T
    score = jnp.where(others, alike / settings.temperature, -jnp.inf)
    score -= jnp.where(others.any(1), score.max(1), 0)[:, None]
    share = jnp.where(others, jnp.exp(score), 0)
    share /= jnp.maximum(share.sum(1, keepdims=True), 1e-30)
    predicted = _cosine(sketch, share @ sketch)
    total = (sketch * present[:, None]).sum(0)
    last = state.last[jnp.clip(ids, 0)]
    seen = present & (last > 0)
    count = jnp.maximum(others.sum(1), 1)
    signals = {
        "similarity": jnp.where(others, alike, 0).sum(1) / count,
        "norm": jnp.log(jnp.linalg.norm(sketch, axis=1) + 1e-30),
        "agreement": _cosine(sketch, total - sketch),
        "staleness": jnp.where(seen, state.round + 1 - last, 0).astype(sketch.dtype),
        "loss_drop": jnp.where(seen, state.loss[jnp.clip(ids, 0)] - loss, 0),
    }
    logarithm = settings.examples * jnp.log(jnp.maximum(acc.ballots.weights, 1e-30))
    for name, signal in signals.items():
        if factor := getattr(settings, name):
            logarithm += factor * _deviations(signal, present)
    outlier = jnp.maximum(_deviations(-predicted, present), 0)
    logarithm -= settings.outlier * outlier
    weight = jax.nn.softmax(jnp.where(present, logarithm, -jnp.inf))
    weight = jnp.where(present, weight, 0)
    clients = jnp.maximum(present.sum(), 1)
    entropy = -(weight * jnp.log(jnp.maximum(weight, 1e-30))).sum()
    return weight, {
        "weight_entropy": entropy / jnp.maximum(jnp.log(clients), math.log(2)),
        "profile_prediction": jnp.where(present, predicted, 0).sum() / clients,
        "largest_weight": weight.max() * clients,
    }


def _sketches(settings: Guided, acc: polled.Polled) -> jax.Array:
    """Sketches `[C, m]` of the deltas."""
    deltas = acc.ballots.deltas
    lengths = [0] * len(jax.tree.leaves(deltas))

    def sketch(delta: Any) -> jax.Array:
        return count_sketch.sketch(delta, lengths, 1, settings.sketch)[0]

    return jax.vmap(sketch)(deltas)


def _cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """Cosines `[C]` of the rows of two arrays; 0 if one is zero."""
    norms = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    return (a * b).sum(1) / jnp.maximum(norms, 1e-30)


def _deviations(signal: jax.Array, present: jax.Array) -> jax.Array:
    """Standard deviations from the mean of the present clients, clipped to ±3."""
    count = jnp.maximum(present.sum(), 1)
    mean = jnp.where(present, signal, 0).sum() / count
    apart = jnp.where(present, signal - mean, 0)
    deviation = jnp.sqrt((apart**2).sum() / count)
    return jnp.clip(apart / jnp.maximum(deviation, 1e-12), -LARGEST, LARGEST)
