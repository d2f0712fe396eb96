"""Attackers that know the deltas of others, and agree on a common false one.

An attack in `fedjax_rec.attacks` sees the delta of one client. Colluders' false delta
is computed from a mean and a spread over many, in a buffer of the cohort's deltas: that
of the rule, or one in front of a rule without. Their deltas have passed the codec
already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    from jax.scipy import special

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import ballots, polled
    from fedjax_rec.core import attackers, contracts, magnitudes, rows


Known = Literal["honest", "own"]
"""Deltas that colluders know: those of the honest clients, or the ones that they would
send themselves, which needs no spying."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colluding:
    """Clients that know one another's deltas and send a common false one.

    Colluders with a false delta that the round would reject, since a number of it is
    too large, are absent, and count as `rejected_clients`.

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
        """Wraps the aggregator of `context.recipe`.

        Raises:
            ValueError: at the first round, if the rule does not read deltas of the
                shared parameters, or reads arrays besides them.
        """
        recipe = context.recipe
        rule = recipe.aggregator
        members = attackers.attackers(context.num_clients, self.share, self.seed)

        # Accumulators are a buffer, and `[C]` with 1 for present colluders.
        def init(shared: Any, cohort_size: int):
            acc = rule.init(shared, cohort_size)
            if not isinstance(acc, ballots.Ballots | polled.Polled):
                acc = InFront(polled.empty(shared, cohort_size, {}, "voters"))
            return acc, jnp.zeros_like(_ballots(acc).weights)

        def update(acc, deltas: Any, weights: jax.Array, senders: contracts.Senders):
            inner, marks = acc
            bad = members.at[senders.ids].get(mode="fill", fill_value=False)
            bad = (bad & (senders.ids >= 0) & (weights > 0)).astype(marks.dtype)
            marks = marks.at[senders.slots].add(bad, mode="drop")
            if isinstance(inner, InFront):
                _check(inner.polled.ballots, deltas, senders)
                buffer = polled.written(inner.polled, deltas, weights, senders, {})
                return InFront(buffer), marks
            return rule.update(inner, deltas, weights, senders), marks

        def finish(acc, state: Any, shared: Any):
            inner, marks = acc
            before = _ballots(inner)
            bad = (marks > 0) & before.voters
            inner = _with(inner, _replaced(before, bad, self.false, self.knows))
            sent = bad & _ballots(inner).voters
            if isinstance(inner, InFront):
                inner = _folded(rule, inner.polled, state, shared)
            delta, state, info = rule.finish(inner, state, shared)
            counts = {"colluders": sent.sum(), "rejected_clients": (bad & ~sent).sum()}
            counts = {name: x.astype(jnp.float32) for name, x in counts.items()}
            return delta, state, {**info, **counts}

        def begin(acc, state: Any):
            inner, marks = acc
            if isinstance(inner, InFront):
                return acc
            return rule.begin(inner, state), marks

        attacked = rule._replace(
            init=init, update=update, finish=finish, begin=begin, linear=False
        )
        return recipe._replace(aggregator=attacked)


class InFront(NamedTuple):
    """The buffer in front of a rule that keeps no deltas.

    Attributes:
        polled: deltas, losses and ids of the cohort.
    """

    polled: polled.Polled


def _ballots(acc: Any) -> ballots.Ballots:
    if isinstance(acc, InFront):
        return acc.polled.ballots
    return acc if isinstance(acc, ballots.Ballots) else acc.ballots


def _with(acc: Any, new: ballots.Ballots) -> Any:
    """The accumulator with other ballots, and no numbers of those without a weight."""
    if isinstance(acc, InFront):
        return InFront(_with(acc.polled, new))
    if isinstance(acc, ballots.Ballots):
        return new
    numbers = _without(acc.numbers, ~new.voters)
    return acc._replace(ballots=new, numbers=numbers)


def _without(acc: ballots.Ballots, absent: jax.Array) -> ballots.Ballots:
    """The ballots with zeros for the clients `absent` `[C]`."""
    return jax.tree.map(lambda x: jnp.where(fold.wide(absent, x), 0, x), acc)


def _check(acc: ballots.Ballots, deltas: Any, senders: contracts.Senders) -> None:
    """Raises a ValueError for messages that are more or less than a delta."""
    if senders.extras:
        raise ValueError(
            f"the aggregation rule reads {', '.join(sorted(senders.extras))} of each "
            "client besides its delta, for which colluders have no false value: leave "
            "out the attack or the wrapper"
        )

    def shapes(tree: Any) -> list[tuple[int, ...]]:
        leaves = jax.tree.leaves(tree, is_leaf=_in_rows)
        return [x.values.shape[2:] if _in_rows(x) else x.shape[1:] for x in leaves]

    if shapes(acc.deltas) != shapes(deltas):
        raise ValueError(
            "the aggregation rule reads messages that are no deltas of all shared "
            "parameters, such as sketches, for which colluders have no false value: "
            "leave out the attack or the wrapper"
        )


def _in_rows(leaf: Any) -> bool:
    return rows.is_table(leaf) or rows.is_rows(leaf)


def _folded(
    rule: contracts.Aggregator, acc: polled.Polled, state: Any, shared: Any
) -> Any:
    """The accumulator of the rule after all buffered deltas, as one chunk."""
    touched = iter(acc.ballots.touched)

    def sent(leaf: Any) -> Any:
        if not rows.is_table(leaf):
            return leaf
        size = leaf.values.shape[:2]
        ids = jnp.broadcast_to(jnp.arange(size[1], dtype=jnp.int32), size)
        if leaf.per_row:
            ids = jnp.where(next(touched) > 0, ids, size[1])
        return rows.Rows(
            ids=ids, values=leaf.values, space=leaf.space, num_rows=size[1]
        )

    deltas = jax.tree.map(sent, acc.ballots.deltas, is_leaf=rows.is_table)
    slots = jnp.arange(len(acc.loss), dtype=jnp.int32)
    senders = contracts.Senders(slots=slots, ids=acc.ids, loss=acc.loss)
    empty = rule.begin(rule.init(shared, len(slots)), state)
    return rule.update(empty, deltas, acc.ballots.weights, senders)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALIE(Colluding):
    """A Little Is Enough: colluders send `mean - z std` of each coordinate.

    With `scale` 1, `z` is the largest number for which enough honest clients lie
    farther out to make a majority together with the colluders: `Phi^-1((n - m - s) / (n
    - m))`, `s = floor(n / 2 + 1) - m`, with `m` colluders among `n` clients.

    Colluders use every vote that they have: with `voting="dense"` on every row, else,
    and with rules that keep no deltas, on the rows that they touched, with the mean
    over the known voters of each row. On a row without any they send their own numbers.
    Numbers of examples, losses and profiles stay as they are. Memory: twice
    `ballot_bytes` at the end, with any rule. `info` has the number of `colluders`.

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
    """The ballots with false ones in the places `bad` `[C]`.

    As in `simulation.guard`, a client whose delta holds a number that is too large or
    not finite is absent.
    """
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
    sound = [magnitudes.small(x, 1) for x in jax.tree.leaves((joint, values))]
    new = acc._replace(deltas=ballots.with_rows(acc.deltas, joint, values))
    return _without(new, bad & ~jnp.stack(sound).all(0))


def most_deviations(n: jax.Array, m: jax.Array) -> jax.Array:
    """`z` of `ALIE`, for `m` colluders among `n` clients; 0 if they are too few."""
    honest = jnp.maximum(n - m, 1)
    supporters = jnp.clip(n // 2 + 1 - m, 1, honest)
    return jnp.maximum(special.ndtri((honest - supporters) / honest), 0)
