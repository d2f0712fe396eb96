"""Attackers who know what others send: they replace their ballots before the count.

What a single client does before it sends (`fedjax_rec.attacks`) sees that client alone.
Colluders agree on one false delta, made of a mean and a spread over many. A rule that
keeps the cohort's deltas has all of that at hand.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from fedjax_rec.aggregators.robust.ballots import Ballots
from fedjax_rec.aggregators.robust.row_ballots import by_row
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders

Kind = Literal["alie", "ipm"]
"""What colluders send, all of them the same.

- `alie` (A Little Is Enough): `mean - z std` of each coordinate. With `scale` 1, `z` is
  the largest with which so many honest clients lie farther out that colluders and those
  are a majority: `Phi^-1((n - m - s) / (n - m))`, `s = floor(n / 2 + 1) - m`, of `n`
  clients of whom `m` collude.
- `ipm` (inner product manipulation): `-scale mean`.
"""

Known = Literal["honest", "own"]
"""Whose mean and spread they know: of the honest clients, or of what they themselves
would have sent, which needs no spying."""


@struct
class Watched:
    """The ballots of a cohort, and which of them are the colluders'.

    Attributes:
        ballots: of the rule.
        members: `[C]`, 1 where a colluder is present.
    """

    ballots: Ballots
    members: Array


def colluding(
    rule: Aggregator,
    members: Array,
    *,
    kind: Kind,
    scale: float = 1.0,
    knows: Known = "honest",
) -> Aggregator:
    """The rule, some of whose voters collude.

    They vote wherever they have a vote: on every row under `voting="dense"`, else on
    the rows that they touched, with the mean over the known voters of each row. On a
    row where there is none they send what they learned. Their codecs and numbers of
    examples stay as they are. Memory: twice `ballot_bytes` at the end.

    Args:
        rule: an aggregator of this package with a buffer.
        members: `[N]` bool, who colludes.
        kind: what they send.
        scale: of `z`, or of the mean.
        knows: whose mean and spread they know.

    Returns:
        An aggregator with `rule`'s state and info, and the number of `colluders`.

    Raises:
        ValueError: `kind` or `knows` is not one of those; in `init`, `rule` has no
            buffer.

    References:
        Baruch et al., A Little Is Enough: Circumventing Defenses For Distributed
        Learning, NeurIPS 2019. Xie et al., Fall of Empires: Breaking Byzantine-tolerant
        SGD by Inner Product Manipulation, UAI 2019.
    """
    if kind not in ("alie", "ipm") or knows not in ("honest", "own"):
        raise ValueError(
            f"kind must be alie or ipm and knows honest or own, got {kind!r} and "
            f"{knows!r}"
        )
    if not (scale > 0 and np.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")

    def init(shared: Tree, cohort_size: int) -> Watched:
        ballots = rule.init(shared, cohort_size)
        if not isinstance(ballots, Ballots):
            raise ValueError(
                "colluders make their delta of what the others send, which only a rule "
                "that keeps the cohort's deltas has: use one of those with a buffer in "
                "docs/robust.md, such as trimmed_mean, which with share 0 is a mean"
            )
        return Watched(ballots=ballots, members=jnp.zeros_like(ballots.weights))

    def update(acc: Watched, deltas: Tree, weights: Array, senders: Senders) -> Watched:
        bad = members.at[senders.ids].get(mode="fill", fill_value=False)
        bad = bad & (senders.ids >= 0) & (weights > 0)
        return Watched(
            ballots=rule.update(acc.ballots, deltas, weights, senders),
            members=acc.members.at[senders.slots].add(
                bad.astype(acc.members.dtype), mode="drop"
            ),
        )

    def finish(acc: Watched, state: Tree, shared: Tree):
        ballots = acc.ballots
        bad = (acc.members > 0) & ballots.voters
        false = replaced(ballots, bad, kind, scale, knows)
        delta, state, info = rule.finish(false, state, shared)
        return delta, state, {**info, "colluders": bad.sum().astype(jnp.float32)}

    return Aggregator(init, update, finish, rule.start)


def replaced(
    ballots: Ballots, bad: Array, kind: Kind, scale: float, knows: Known
) -> Ballots:
    """The ballots with the false ones in the places `bad` `[C]`."""
    present = ballots.voters
    known = bad if knows == "own" else present & ~bad
    z = scale * most_deviations(present.sum(), bad.sum())
    touched = iter(ballots.touched)

    def of(x: Array, votes: Array) -> Array:
        """`x` `[C, ...]`, of which each leading `[C]` or `[C, I]` is a vote or not."""

        def wide(mask):
            return mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim))

        mine = votes & known.reshape(-1, *[1] * (votes.ndim - 1))
        count = wide(mine.sum(0, keepdims=True))
        over = jnp.maximum(count, 1).astype(x.dtype)
        mean = jnp.where(wide(mine), x, 0).sum(0, keepdims=True) / over
        if kind == "ipm":
            false = -scale * mean
        else:
            off = jnp.where(wide(mine), x - mean, 0)
            spread = jnp.sqrt(jnp.square(off).sum(0, keepdims=True) / over)
            false = mean - z.astype(x.dtype) * spread
        theirs = votes & bad.reshape(-1, *[1] * (votes.ndim - 1))
        return jnp.where(wide(theirs) & (count > 0), false, x)

    def leaf(x):
        if not rows.is_table(x):
            return of(x, present)
        votes = present
        if ballots.touched and by_row(x):
            votes = present[:, None] & (next(touched) > 0)
        return dataclasses.replace(x, values=of(x.values, votes))

    deltas = jax.tree.map(leaf, ballots.deltas, is_leaf=rows.is_table)
    return dataclasses.replace(ballots, deltas=deltas)


def most_deviations(n: Array, m: Array) -> Array:
    """`z` of `alie`, for `m` colluders among `n` clients; 0 where they are too few."""
    honest = jnp.maximum(n - m, 1)
    supporters = jnp.clip(n // 2 + 1 - m, 1, honest)
    return jnp.maximum(ndtri((honest - supporters) / honest), 0)
