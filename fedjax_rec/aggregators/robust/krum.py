"""Krum and multi-Krum: the deltas with the closest neighbours."""

from typing import Literal

import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    assumed_attackers,
    buffered,
    check_share,
    weighted_sum,
)
from fedjax_rec.types import Aggregator, Array, Tree

Variant = Literal["blanchard", "one_more", "unsquared"]
"""How Krum scores a client, among `n` present ones of whom `f` are assumed attackers.

- `blanchard`: the sum of the squared distances to the `n - f - 2` nearest others, as
  published.
- `one_more`: to the `n - f - 1` nearest others, so that `n - f` count with the client
  itself. In byzfl and in Allouah et al. 2023, whose bounds hold for it.
- `unsquared`: the sum of distances, not of their squares. In several repositories of
  federated learning.
"""


def krum(*, share: float = 0.1, variant: Variant = "blanchard") -> Aggregator:
    """The delta of the client whose nearest neighbours are the nearest.

    Distances are over all leaves. Of equal scores the first slot's client wins.
    Memory: `ballot_bytes`, and `3 C^2` numbers at the end.

    Args:
        share: assumed share of attackers, `f = floor(share n)`.
        variant: how a client is scored.

    Returns:
        An aggregator; `info` holds the `krum_score` of the chosen client.

    Raises:
        ValueError: `share` is not in `[0, 0.5)`; a cohort is so small that `2 f + 2 <
            n` is broken when all of it is present.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017.
    """
    return _krum(share, variant, one=True, chosen=None)


def multi_krum(
    *, share: float = 0.1, chosen: int | None = None, variant: Variant = "blanchard"
) -> Aggregator:
    """The mean of the deltas with the lowest scores of Krum.

    Memory: `ballot_bytes`, and `3 C^2` numbers at the end.

    Args:
        share: assumed share of attackers, `f = floor(share n)`.
        chosen: how many; by default `n - f`, so that share 0 is the uniform mean.
        variant: how a client is scored.

    Returns:
        An aggregator; `info` holds the highest `krum_score` among the chosen.

    Raises:
        ValueError: as in `krum`, or `chosen` is not positive.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """
    if chosen is not None and chosen < 1:
        raise ValueError(f"chosen must be at least 1, got {chosen}")
    return _krum(share, variant, one=False, chosen=chosen)


def _krum(share: float, variant: Variant, one: bool, chosen: int | None) -> Aggregator:
    check_share(share)
    if variant not in ("blanchard", "one_more", "unsquared"):
        raise ValueError(
            f"variant must be blanchard, one_more or unsquared, got {variant!r}"
        )

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        del shared
        present = ballots.voters
        n = present.sum(dtype=jnp.int32)
        f = assumed_attackers(n, share)
        score = scores(
            distances.pairwise_squared(ballots.deltas), present, n, f, variant
        )
        if one:
            keep = jnp.int32(1)
        else:
            keep = n - f if chosen is None else jnp.minimum(chosen, n)
        kept = ranks(score, present) < keep
        weight = kept.astype(ballots.weights.dtype)
        weight = weight / jnp.maximum(weight.sum(), 1)
        highest = jnp.where(kept, score, -jnp.inf).max()
        info = {"krum_score": jnp.where(n > 0, highest, 0)}
        return weighted_sum(ballots, weight), state, info

    return buffered(finish, check=lambda cohort_size: check_size(cohort_size, share))


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
