"""Krum and multi-Krum: the deltas with the closest neighbours."""

from typing import Literal

import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    assumed_attackers,
    buffered,
    check_share,
    weighted_sum,
)
from fedjax_rec.aggregators.robust.breakdown import few_tolerate
from fedjax_rec.aggregators.robust.few_voters import pairwise_squared, row_by_row
from fedjax_rec.aggregators.robust.row_ballots import vote
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator

Variant = Literal["blanchard", "one_more", "unsquared"]
"""How Krum scores a client, among `n` present ones of whom `f` are assumed attackers.

- `blanchard`: the sum of the squared distances to the `n - f - 2` nearest others, as
  published.
- `one_more`: to the `n - f - 1` nearest others, so that `n - f` count with the client
  itself. In byzfl and in Allouah et al. 2023, whose bounds hold for it.
- `unsquared`: the sum of distances, not of their squares. In several repositories of
  federated learning.
"""


def krum(
    *,
    share: float = 0.1,
    variant: Variant = "blanchard",
    voting: Voting = "dense",
    attackers: float | None = None,
) -> Aggregator:
    """The delta of the client whose nearest neighbours are the nearest.

    Distances are over all leaves. Of equal scores the first slot's client wins.
    Memory: `ballot_bytes`, and `3 C^2` numbers at the end.

    With `voting` by some, every row of a table is that of one of its own voters, by
    distances between their rows; the other leaves are one client's together. There
    equal scores share, since of two or three voters a pair always has them: their row
    is the pair's mean. Krum stands `f` of `2 f + 3` voters; among fewer,
    `f = (v - 3) // 2` are assumed.

    Args:
        share: assumed share of attackers, `f = floor(share n)`.
        variant: how a client is scored.
        voting: who votes on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    Returns:
        An aggregator; `info` holds the `krum_score` of the chosen client, and
        `breakdown.row_report` where only some vote on a row.

    Raises:
        ValueError: `share` or `attackers` is not in `[0, 0.5)`; a cohort is so small
            that `2 f + 2 < n` is broken when all of it is present.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017.
    """
    return _krum(share, variant, voting, attackers, one=True, chosen=None)


def multi_krum(
    *,
    share: float = 0.1,
    chosen: int | None = None,
    variant: Variant = "blanchard",
    voting: Voting = "dense",
    attackers: float | None = None,
) -> Aggregator:
    """The mean of the deltas with the lowest scores of Krum.

    Memory: `ballot_bytes`, and `3 C^2` numbers at the end. With `voting` by some, as in
    `krum`.

    Args:
        share: assumed share of attackers, `f = floor(share n)`.
        chosen: how many; by default `n - f`, so that share 0 is the uniform mean.
        variant: how a client is scored.
        voting: who votes on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    Returns:
        An aggregator; `info` holds the highest `krum_score` among the chosen, and
        `breakdown.row_report` where only some vote on a row.

    Raises:
        ValueError: as in `krum`, or `chosen` is not positive.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """
    if chosen is not None and chosen < 1:
        raise ValueError(f"chosen must be at least 1, got {chosen}")
    return _krum(share, variant, voting, attackers, one=False, chosen=chosen)


def _krum(
    share: float,
    variant: Variant,
    voting: Voting,
    attackers: float | None,
    one: bool,
    chosen: int | None,
) -> Aggregator:
    check_share(share)
    attackers = share if attackers is None else attackers
    check_share(attackers)
    if variant not in ("blanchard", "one_more", "unsquared"):
        raise ValueError(
            f"variant must be blanchard, one_more or unsquared, got {variant!r}"
        )

    tolerates = few_tolerate(share, 2)

    def keep_of(n: Array, f: Array) -> Array:
        if one:
            return jnp.int32(1)
        return n - f if chosen is None else jnp.minimum(chosen, n)

    def whole(ballots: Ballots):
        present = ballots.voters
        n = present.sum(dtype=jnp.int32)
        f = assumed_attackers(n, share)
        squared = distances.pairwise_squared(ballots.deltas)
        score = scores(squared, present, n, f, variant)
        kept = ranks(score, present) < keep_of(n, f)
        weight = kept.astype(ballots.weights.dtype)
        weight = weight / jnp.maximum(weight.sum(), 1)
        highest = jnp.where(kept, score, -jnp.inf).max()
        info = {"krum_score": jnp.where(n > 0, highest, 0)}
        return weighted_sum(ballots, weight), info

    def row(x: Array, voters: Array) -> Array:
        n = voters.sum(dtype=jnp.int32)
        f = tolerates(n)
        score = scores(pairwise_squared(x), voters, n, f, variant)
        keep = keep_of(n, f)
        # What overflowed is still before those who are absent.
        score = jnp.where(voters, jnp.minimum(score, jnp.finfo(x.dtype).max), jnp.inf)
        weight = shared_places(score, keep).astype(x.dtype) / keep.astype(x.dtype)
        return jnp.tensordot(weight, x, 1)

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        delta, info = vote(
            ballots,
            shared,
            voting,
            whole,
            lambda table: row_by_row(row, table),
            tolerates,
            attackers,
        )
        return delta, state, info

    def check(cohort_size: int) -> None:
        check_size(cohort_size, share)

    return buffered(finish, voting=voting, check=check)


def check_size(cohort_size: int, share: float) -> None:
    """Raises `ValueError` unless `n >= 2 f + 3`, as Krum requires."""
    f = int(share * cohort_size + 1e-4)
    if cohort_size < 2 * f + 3:
        raise ValueError(
            f"Krum with share {share:g} assumes f = {f} attackers among {cohort_size} "
            f"clients, and needs at least 2 f + 3 = {2 * f + 3}: enlarge the cohort or "
            "lower share"
        )


def scores(squared: Array, present: Array, n: Array, f: Array, variant: Variant):
    """Krum's scores `[C]`, infinite for who is absent.

    Args:
        squared: `[C, C]` squared distances.
        present: `[C]` bool.
        n: int32 scalar, the present clients.
        f: int32 scalar, the assumed attackers.
        variant: which distances are summed. At least one is, however few clients came.
    """
    far = jnp.sqrt(squared) if variant == "unsquared" else squared
    others = present[:, None] & ~jnp.eye(len(present), dtype=bool)
    num = jnp.clip(n - f - (1 if variant == "one_more" else 2), 1, n - 1)
    near = order.smallest(far, others, jnp.broadcast_to(num, present.shape))
    score = jnp.where(near > 0, far * near, 0).sum(0)
    return jnp.where(present, score, jnp.inf)


def ranks(score: Array, present: Array) -> Array:
    """The place `[C]` of each present client from the lowest score; absent ones last.

    A score that overflowed is still before those who are absent.
    """
    by_score = jnp.lexsort((score, ~present))
    places = jnp.arange(len(score), dtype=jnp.int32)
    return jnp.zeros_like(places).at[by_score].set(places)


def shared_places(score: Array, keep: Array) -> Array:
    """What each `[k]` has of the `keep` lowest places; equal scores share the last.

    Args:
        score: `[k]`, infinite for who is absent.
        keep: int32 scalar, at most those present.
    """
    below = (score[None] < score[:, None]).sum(1)
    equal = (score[None] == score[:, None]).sum(1)
    return jnp.clip((keep - below) / equal, 0, 1)
