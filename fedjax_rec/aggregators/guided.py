"""FM-guided weights: who counts how much, by what clients tell of themselves.

Each client sends, beside its delta, a profile: its items' texts embedded by the
foundation model on its device, and clipped. From the likeness of profiles follows what
a client's delta should look like; from the disagreement, how far it is trusted. The
same rule by the likeness of the deltas themselves needs no model, and is its control.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust.ballots import Ballots, buffered
from fedjax_rec.core import count_sketch as sketches
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders

_MOST = 3.0
"""Deviations beyond so many count as so many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
    """How much each sign moves a client's weight.

    The logarithm of a weight is the sum of the signs, each in standard deviations over
    the cohort's clients (at most 3) times its factor here, and of the logarithm of the
    number of examples times `examples`.

    Attributes:
        examples: 1 weighs as FedAvg does, 0 all alike.
        similarity: mean likeness of the client's profile to the others'.
        norm: logarithm of the delta's norm.
        agreement: cosine of the delta and the mean of all others'.
        staleness: rounds since the client last took part.
        loss_drop: its loss then less its loss now.
        outlier: disagreement of the delta and what the profiles predict of it, one
            minus their cosine; taken off, where it is above the cohort's mean.
        temperature: of the likeness `exp(cosine / temperature)` by which others'
            deltas predict a client's.
    """

    examples: float = 1.0
    similarity: float = 0.0
    norm: float = 0.0
    agreement: float = 0.0
    staleness: float = 0.0
    loss_drop: float = 0.0
    outlier: float = 1.0
    temperature: float = 0.2


@struct
class Told:
    """What a cohort sent.

    Attributes:
        ballots: the deltas.
        sketch: `[C, m]` a random projection of each delta.
        profile: `[C, p]`.
        loss: `[C]`.
        ids: `[C, 2]` client ids plus one, as multiples of 65,536 and the rest: in the
            deltas' dtype, so that one all-reduce joins all.
    """

    ballots: Ballots
    sketch: Array
    profile: Array
    loss: Array
    ids: Array


@struct
class Seen:
    """What the server remembers of each client.

    Attributes:
        round: int32 scalar, rounds done.
        last: `[N]` int32, the round a client last took part in, from 1; 0 is never.
        loss: `[N]` its loss then.
    """

    round: Array
    last: Array
    loss: Array


def fm_guided(
    num_clients: int,
    width: int,
    guidance: Guidance | None = None,
    *,
    likeness: Literal["profile", "update"] = "profile",
    sketch: int = 1024,
) -> Aggregator:
    """A weighted mean, its weights from profiles and from how deltas agree with them.

    Memory: the deltas of the cohort, `C` times the shared parameters, and `C` times
    `sketch + width` numbers. Inner products of deltas are those of their count sketches
    (Charikar et al. 2002), whose error is about `1 / sqrt(sketch)` of the norms.

    Args:
        num_clients: `N`.
        width: `p` of a profile.
        guidance: how much each sign counts.
        likeness: who is like whom: by `profile`, or by `update`, the cosine of the
            deltas, which needs no foundation model.
        sketch: `m`.

    Returns:
        An aggregator whose info tells `weight_entropy` (1 is all alike),
        `profile_prediction` (mean cosine of a delta and what the others' predict of it)
        and `largest_weight` (times the number of clients).
    """
    guide = guidance or Guidance()
    if guide.temperature <= 0:
        raise ValueError(f"temperature must be positive, got {guide.temperature}")
    buffer = buffered(lambda ballots, state, shared: (shared, state, {}))

    def start(shared: Tree) -> Seen:
        first = jax.tree.leaves(shared)[0]
        return Seen(
            round=jnp.int32(0),
            last=jnp.zeros(num_clients, jnp.int32),
            loss=jnp.zeros(num_clients, first.dtype),
        )

    def init(shared: Tree, cohort_size: int) -> Told:
        dtype = jax.tree.leaves(shared)[0].dtype
        return Told(
            ballots=buffer.init(shared, cohort_size),
            sketch=jnp.zeros((cohort_size, sketch), dtype),
            profile=jnp.zeros((cohort_size, width), dtype),
            loss=jnp.zeros(cohort_size, dtype),
            ids=jnp.zeros((cohort_size, 2), dtype),
        )

    def update(acc: Told, deltas: Tree, weights: Array, senders: Senders) -> Told:
        c = len(acc.ids)
        slots = jnp.where(weights > 0, senders.slots, c)
        lengths = [
            leaf.values.shape[1] if rows.is_table(leaf) else 0
            for leaf in jax.tree.leaves(acc.ballots.deltas, is_leaf=rows.is_table)
        ]
        sketched = jax.vmap(lambda d: sketches.sketch(d, lengths, 1, sketch)[0])
        profile = senders.profile
        if profile is None:
            if likeness == "profile":
                raise ValueError(
                    "FM-guided weights read profiles, and the clients send none: set "
                    "profile.source, or likeness='update'"
                )
            profile = jnp.zeros((len(slots), width), acc.profile.dtype)

        def put(buffer: Array, values: Array) -> Array:
            return buffer.at[slots].add(values.astype(buffer.dtype), mode="drop")

        return Told(
            ballots=buffer.update(acc.ballots, deltas, weights, senders),
            sketch=put(acc.sketch, sketched(deltas)),
            profile=put(acc.profile, profile),
            loss=put(acc.loss, senders.loss),
            ids=put(acc.ids, jnp.stack(jnp.divmod(senders.ids + 1, 1 << 16), axis=-1)),
        )

    def finish(acc: Told, state: Seen, shared: Tree):
        del shared
        here = acc.ballots.voters
        weight, info = _weigh(acc, state, here, guide, likeness)

        def mean(leaf: Array) -> Array:
            return jnp.tensordot(weight.astype(leaf.dtype), leaf, 1)

        at = jnp.where(here, _ids(acc), num_clients)
        new = Seen(
            round=state.round + 1,
            last=state.last.at[at].set(state.round + 1, mode="drop"),
            loss=state.loss.at[at].set(acc.loss, mode="drop"),
        )
        return jax.tree.map(mean, acc.ballots.deltas), new, info

    return Aggregator(init, update, finish, start)


def _weigh(acc: Told, state: Seen, here: Array, guide: Guidance, likeness: str):
    """`[C]` weights that sum to one, and what is told of them."""
    c = len(here)
    own = acc.sketch if likeness == "update" else acc.profile
    others = here & here[:, None] & ~jnp.eye(c, dtype=bool)
    alike = _cosines(own, own)
    score = jnp.where(others, alike / guide.temperature, -jnp.inf)
    score -= jnp.where(others.any(1), score.max(1), 0)[:, None]
    by = jnp.where(others, jnp.exp(score), 0)
    by /= jnp.maximum(by.sum(1, keepdims=True), 1e-30)
    predicted = _cosine(acc.sketch, by @ acc.sketch)
    total = (acc.sketch * here[:, None]).sum(0)
    before = jnp.clip(_ids(acc), 0)
    last = state.last[before]
    seen = here & (last > 0)
    count = jnp.maximum(others.sum(1), 1)
    signs = {
        "similarity": jnp.where(others, alike, 0).sum(1) / count,
        "norm": jnp.log(jnp.linalg.norm(acc.sketch, axis=1) + 1e-30),
        "agreement": _cosine(acc.sketch, total - acc.sketch),
        "staleness": jnp.where(seen, state.round + 1 - last, 0).astype(own.dtype),
        "loss_drop": jnp.where(seen, state.loss[before] - acc.loss, 0),
    }
    logarithm = guide.examples * jnp.log(jnp.maximum(acc.ballots.weights, 1e-30))
    for name, sign in signs.items():
        if factor := getattr(guide, name):
            logarithm += factor * _deviations(sign, here)
    if guide.outlier:
        logarithm -= guide.outlier * jnp.maximum(_deviations(-predicted, here), 0)
    weight = jax.nn.softmax(jnp.where(here, logarithm, -jnp.inf))
    weight = jnp.where(here, weight, 0)
    clients = jnp.maximum(here.sum(), 1)
    entropy = -(weight * jnp.log(jnp.maximum(weight, 1e-30))).sum()
    info: dict[str, Any] = {
        "weight_entropy": entropy / jnp.maximum(jnp.log(clients), math.log(2)),
        "profile_prediction": jnp.where(here, predicted, 0).sum() / clients,
        "largest_weight": weight.max() * clients,
    }
    return weight, info


def _ids(acc: Told) -> Array:
    """`[C]` int32; -1 is absent."""
    high, low = acc.ids.astype(jnp.int32).T
    return (high << 16) + low - 1


def _cosine(a: Array, b: Array) -> Array:
    """`[C]` of the rows of two arrays; 0 where one is zero."""
    norms = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    return (a * b).sum(1) / jnp.maximum(norms, 1e-30)


def _cosines(a: Array, b: Array) -> Array:
    """`[C, C]` of all pairs of rows."""

    def unit(x: Array) -> Array:
        return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-30)

    return unit(a) @ unit(b).T


def _deviations(sign: Array, here: Array) -> Array:
    """In standard deviations from the mean of those present, at most 3 either way."""
    count = jnp.maximum(here.sum(), 1)
    mean = jnp.where(here, sign, 0).sum() / count
    apart = jnp.where(here, sign - mean, 0)
    deviation = jnp.sqrt((apart**2).sum() / count)
    return jnp.clip(apart / jnp.maximum(deviation, 1e-12), -_MOST, _MOST)
