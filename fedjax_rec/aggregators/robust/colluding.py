"""Attackers that know the deltas of others: they replace their ballots in the buffer.

An attack in `fedjax_rec.attacks` sees the delta of one client. Colluders agree on one
false delta, computed from a mean and a spread over many, which a rule that keeps the
cohort's deltas has at hand. Their deltas have passed the codec already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    from jax.scipy import special

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import ballots
    from fedjax_rec.core import attackers, contracts


Known = Literal["honest", "own"]
"""Deltas that colluders know: those of the honest clients, or the ones that they would
send themselves, which needs no spying."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colluding:
    """Clients that know one another's deltas and send a common false one.

    Attributes:
        share: share of the population that colludes.
        scale: factor of the attack.
        seed: seed of the colluders.
        knows: known deltas.
    """

    share: float = 0.1
    scale: float = 1.0
    seed: int = 0
    knows: Known = "honest"

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 1]", scale="(0, inf)")

    def false(self, mean: jax.Array, spread: jax.Array, z: jax.Array) -> jax.Array:
        """The delta that colluders send, from mean and spread of the known deltas."""
        raise NotImplementedError

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps the aggregator of `context.recipe`, which needs a buffer."""
        recipe = context.recipe
        rule = recipe.aggregator
        members = attackers.attackers(context.num_clients, self.share, self.seed)

        # Accumulators are the ballots, and `[C]` with 1 for present colluders.
        def init(shared: Any, cohort_size: int):
            acc = ballots.kept_by(rule, "an attack by colluders", shared, cohort_size)
            return acc, jnp.zeros_like(acc.weights)

        def update(acc, deltas: Any, weights: jax.Array, senders: contracts.Senders):
            inner, marks = acc
            bad = members.at[senders.ids].get(mode="fill", fill_value=False)
            bad = (bad & (senders.ids >= 0) & (weights > 0)).astype(marks.dtype)
            marks = marks.at[senders.slots].add(bad, mode="drop")
            return rule.update(inner, deltas, weights, senders), marks

        def finish(acc, state: Any, shared: Any):
            inner, marks = acc
            bad = (marks > 0) & inner.voters
            inner = _replaced(inner, bad, self.false, self.knows)
            delta, state, info = rule.finish(inner, state, shared)
            return delta, state, {**info, "colluders": bad.sum().astype(jnp.float32)}

        attacked = rule._replace(init=init, update=update, finish=finish)
        return recipe._replace(aggregator=attacked)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALIE(Colluding):
    """A Little Is Enough: colluders send `mean - z std` of each coordinate.

    With `scale` 1, `z` is the largest number for which enough honest clients lie
    farther out to make a majority together with the colluders: `Phi^-1((n - m - s) / (n
    - m))`, `s = floor(n / 2 + 1) - m`, with `m` colluders among `n` clients.

    Colluders use every vote that they have: with `voting="dense"` on every row, else on
    the rows that they touched, with the mean over the known voters of each row. On a
    row without any they send their own numbers. Numbers of examples stay as they are.
    Memory: twice `ballot_bytes` at the end. `info` has the number of `colluders`.

    Attributes:
        share: share of the population that colludes.
        scale: factor of `z`.
        seed: seed of the colluders.
        knows: deltas that determine mean and spread.

    References:
        Baruch et al., A Little Is Enough: Circumventing Defenses For Distributed
        Learning, NeurIPS 2019.
    """

    def false(self, mean: jax.Array, spread: jax.Array, z: jax.Array) -> jax.Array:
        """The delta that colluders send, from mean and spread of the known deltas."""
        return mean - (self.scale * z).astype(mean.dtype) * spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class IPM(Colluding):
    """Inner product manipulation: colluders send `-scale mean`; otherwise as `ALIE`.

    Attributes:
        share: share of the population that colludes.
        scale: factor of the mean.
        seed: seed of the colluders.
        knows: deltas that determine the mean.

    References:
        Xie et al., Fall of Empires: Breaking Byzantine-tolerant SGD by Inner Product
        Manipulation, UAI 2019.
    """

    def false(self, mean: jax.Array, spread: jax.Array, z: jax.Array) -> jax.Array:
        """The delta that colluders send, from mean and spread of the known deltas."""
        return -self.scale * mean


def _replaced(
    acc: ballots.Ballots, bad: jax.Array, false: Callable, knows: Known
) -> ballots.Ballots:
    """The ballots with false ones in the places `bad` `[C]`."""
    present = acc.voters
    watched = bad if knows == "own" else present & ~bad
    z = most_deviations(present.sum(), bad.sum())

    def replace(x: jax.Array, votes: jax.Array) -> jax.Array:
        """`x` `[C, ...]`, with votes `[C]` or `[C, I]`."""
        seen = votes & fold.wide(watched, votes)
        count = fold.wide(seen.sum(0, keepdims=True), x)
        seen, over = fold.wide(seen, x), jnp.maximum(count, 1).astype(x.dtype)
        mean = jnp.where(seen, x, 0).sum(0, keepdims=True) / over
        off = jnp.where(seen, x - mean, 0)
        spread = jnp.sqrt(jnp.square(off).sum(0, keepdims=True) / over)
        theirs = fold.wide(votes & fold.wide(bad, votes), x) & (count > 0)
        return jnp.where(theirs, false(mean, spread, z), x)

    part, tables = ballots.split(acc)
    joint = jax.tree.map(lambda x: replace(x, present), part.deltas)
    values = [replace(table.x, table.voters) for table in tables]
    return acc._replace(deltas=ballots.with_rows(acc.deltas, joint, values))


def most_deviations(n: jax.Array, m: jax.Array) -> jax.Array:
    """`z` of `ALIE`, for `m` colluders among `n` clients; 0 if they are too few."""
    honest = jnp.maximum(n - m, 1)
    supporters = jnp.clip(n // 2 + 1 - m, 1, honest)
    return jnp.maximum(special.ndtri((honest - supporters) / honest), 0)
