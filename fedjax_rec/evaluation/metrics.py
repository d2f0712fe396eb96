"""Ranking metrics of one user; callers `vmap` over users.

A positive's rank needs two counts only: the negatives that score above it and those
that tie with it. Everything else is arithmetic on `[P]` numbers, so that no metric
sorts the items. A score of NaN ranks last: as a positive it counts as not retrieved.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.evaluation.protocol import CUTOFF_METRICS, Ties

NOT_RETRIEVED = np.iinfo(np.int32).max
"""Rank beyond every cut-off, for padding and positives scored NaN."""

# Widths [measured on a 2-core CPU, 943 users x 1682 items]: comparing every pair wins
# up to 8 positives (12 ms); beyond it each negative is looked up among the sorted
# positives (84 ms for 150 positives, against 384 by pairs and 354 by sorting items).
_COMPARE_UP_TO = 8
_COMPARE_ALL_UP_TO = 32


class Ranks(NamedTuple):
    """One user's positives among the candidates, by descending score.

    Attributes:
        rank: `[P]` int32 ranks in ascending order, best is 1; `NOT_RETRIEVED` for
            masked positives and for those scored NaN.
        above: `[P]` int32 negatives above each positive.
        tied: `[P]` int32 negatives level with each positive.
        missing: `[P]` bool, positives without a score.
    """

    rank: Array
    above: Array
    tied: Array
    missing: Array


def _count(negative: Array, positive: Array) -> tuple[Array, Array]:
    """Counts the negatives above and level with each positive.

    Args:
        negative: `[K]` scores, NaN for masked ones.
        positive: `[P]` scores in descending order, NaN (last) for masked ones.

    Returns:
        `(above [P], tied [P])` int32; meaningless if `positive` is NaN.
    """
    (width,) = positive.shape
    if width <= _COMPARE_UP_TO:
        above = jnp.sum(negative > positive[:, None], axis=-1, dtype=jnp.int32)
        tied = jnp.sum(negative == positive[:, None], axis=-1, dtype=jnp.int32)
        return above, tied
    method = "compare_all" if width <= _COMPARE_ALL_UP_TO else "scan_unrolled"

    def ahead_of(side: str) -> Array:
        # A negative is ahead of every positive from its insertion point on.
        first = jnp.searchsorted(-positive, -negative, side=side, method=method)
        first = jnp.where(jnp.isnan(negative), width, first)
        return jnp.cumsum(jnp.zeros(width + 1, jnp.int32).at[first].add(1))[:width]

    above = ahead_of("right")
    return above, ahead_of("left") - above


def _interleave(tied: Array, position: Array, key: Array) -> Array:
    """Uniformly random places of tied positives among the candidates they tie with.

    The p-th positive of a group of n tied negatives is inserted at one of n + p + 1
    places, each equally likely; independent insertions make every ordering equally
    likely (a Lehmer code), with `[P]` random numbers instead of one per candidate.

    Args:
        tied: `[P]` negatives level with each positive.
        position: `[P]` the positive's number within its group of equal scores, from 0;
            groups are contiguous.
        key: a typed key.

    Returns:
        `[P]` int32 places from 0, counting the group's negatives and positives.
    """
    (width,) = tied.shape
    index = jnp.arange(width, dtype=jnp.int32)
    group = index - position
    places = jax.random.randint(key, (width,), 0, tied + position + 1, dtype=jnp.int32)

    def insert(p: int | Array, places: Array) -> Array:
        behind = (group == group[p]) & (index < p) & (places >= places[p])
        return places + behind.astype(jnp.int32)

    return jax.lax.fori_loop(0, width, insert, places)


def ranks(
    positive_scores: Array,
    positive_mask: Array,
    negative_scores: Array,
    negative_mask: Array,
    *,
    ties: Ties = "pessimistic",
    key: Array | None = None,
) -> Ranks:
    """The ranks of one user's positives among all candidates.

    Args:
        positive_scores: `[P]`.
        positive_mask: `[P]` bool.
        negative_scores: `[K]`.
        negative_mask: `[K]` bool.
        ties: order of equal scores; `random` draws one ordering, uniformly.
        key: random key, needed by `random` only.
    """
    dtype = jnp.promote_types(positive_scores.dtype, jnp.float32)
    absent = jnp.asarray(jnp.nan, dtype)
    positive = jnp.where(positive_mask, positive_scores.astype(dtype), absent)
    positive = -jnp.sort(-positive)
    negative = jnp.where(negative_mask, negative_scores.astype(dtype), absent)
    missing = jnp.isnan(positive)
    above, tied = _count(negative, positive)
    index = jnp.arange(positive.shape[0], dtype=jnp.int32)
    if ties == "optimistic":
        rank = 1 + above + index
    elif ties == "pessimistic":
        rank = 1 + above + tied + index
    elif key is None:
        raise ValueError("ties='random' draws an ordering: pass key=jax.random.key(..)")
    else:
        first = jnp.searchsorted(-positive, -positive, method="scan_unrolled")
        first = jnp.where(missing, index, first).astype(jnp.int32)
        rank = 1 + above + first + _interleave(tied, index - first, key)
    rank = jnp.where(missing, jnp.int32(NOT_RETRIEVED), rank)
    return Ranks(jnp.sort(rank) if ties == "random" else rank, above, tied, missing)


def user_metrics(
    positive_scores: Array,
    positive_mask: Array,
    negative_scores: Array,
    negative_mask: Array,
    *,
    cutoffs: Sequence[int] = (5, 10, 20),
    ties: Ties = "pessimistic",
    key: Array | None = None,
) -> dict[str, Array]:
    """Every metric of one user, as trec_eval defines it for binary relevance.

    With n relevant items at ranks r_1 < r_2 < ..., and h(k) of them within k:

    - `hr@k` = 1 if h(k) > 0 (Success@k); `mrr@k` = 1 / r_1 if r_1 <= k (RR@k)
    - `recall@k` = h(k) / n; `recall_capped@k` = h(k) / min(k, n); `precision@k` =
      h(k) / k, also with fewer than k candidates
    - `ndcg@k` = sum_{r_j <= k} 1 / log2(r_j + 1), over the same sum for ranks
      1..min(k, n)
    - `map@k` = sum_{r_j <= k} (j / r_j) / n (`map_cut_k`: n, not min(k, n))
    - `auc` = share of (positive, negative) pairs in the right order; a tied pair counts
      0 (pessimistic), 1 (optimistic), or its expectation 1/2 (random, the textbook
      Mann-Whitney statistic). Without negatives it is 1/2.

    Args:
        positive_scores: `[P]`.
        positive_mask: `[P]` bool; without any positive every metric is 0, and the
            caller leaves the user out of its means.
        negative_scores: `[K]`.
        negative_mask: `[K]` bool.
        cutoffs: the ks.
        ties: order of equal scores.
        key: random key, needed by random ties only.

    Returns:
        `metric_names(cutoffs)` to scalars.

    References:
        trec_eval: https://github.com/usnistgov/trec_eval. Järvelin and Kekäläinen,
        "Cumulated gain-based evaluation of IR techniques", TOIS 2002 (NDCG).

    >>> scores, mask = jnp.array([2.0]), jnp.array([True])
    >>> user_metrics(scores, mask, jnp.array([3.0, 1.0]), jnp.ones(2, bool))["mrr@5"]
    Array(0.5, dtype=float32)
    """
    rank, above, tied, missing = ranks(
        positive_scores, positive_mask, negative_scores, negative_mask,
        ties=ties, key=key,
    )  # fmt: skip
    relevant = jnp.maximum(jnp.sum(positive_mask, dtype=jnp.float32), 1.0)
    position = rank.astype(jnp.float32)
    index = jnp.arange(position.shape[0], dtype=jnp.float32)
    # All cut-offs at once: a program unrolled over them compiles several times slower.
    k = jnp.asarray(cutoffs, jnp.float32)
    hit = (position <= k[:, None]).astype(jnp.float32)
    hits, capped = jnp.sum(hit, axis=-1), jnp.minimum(relevant, k)
    gain = jnp.sum(hit / jnp.log2(position + 1.0), axis=-1)
    values = {
        "hr": jnp.minimum(hits, 1.0),
        "ndcg": gain / _ideal(max(cutoffs))[capped.astype(jnp.int32) - 1],
        "recall": hits / relevant,
        "recall_capped": hits / capped,
        "precision": hits / k,
        "mrr": hit[:, 0] / position[0],
        "map": jnp.sum(hit * (index + 1.0) / position, axis=-1) / relevant,
    }
    metrics = {
        f"{name}@{cutoff}": values[name][i]
        for i, cutoff in enumerate(cutoffs)
        for name in CUTOFF_METRICS
    }
    negatives = jnp.sum(negative_mask, dtype=jnp.float32)
    lost = {"pessimistic": 1.0, "optimistic": 0.0, "random": 0.5}[ties]
    behind = negatives - above.astype(jnp.float32) - lost * tied.astype(jnp.float32)
    share = jnp.where(negatives > 0, behind / jnp.maximum(negatives, 1.0), 0.5)
    share = jnp.where(missing, 0.0, share)
    metrics["auc"] = jnp.sum(share) / relevant
    return metrics


def full_metrics(
    scores: Array,
    positives: Array,
    exclude: Array,
    *,
    pool: Array | None = None,
    **options: Any,
) -> dict[str, Array]:
    """`user_metrics` of one user's positives among all items but the excluded.

    Args:
        scores: `[I]`, one per item.
        positives: `[P]` item ids, padded with `I`.
        exclude: `[X]` item ids that are no candidates, padded with `I`; repeats, and
            ids that are positives, do no harm.
        pool: `[I]` bool, the candidates; `None` is every item.
        **options: `cutoffs`, `ties` and `key` of `user_metrics`.

    Returns:
        `metric_names(cutoffs)` to scalars.
    """
    (num_items,) = scores.shape
    negative = jnp.ones(num_items, bool) if pool is None else pool
    negative = negative.at[exclude].set(False, mode="drop")
    negative = negative.at[positives].set(False, mode="drop")
    positive_scores = scores[jnp.minimum(positives, num_items - 1)]
    present = positives < num_items
    return user_metrics(positive_scores, present, scores, negative, **options)


def _ideal(k: int) -> Array:
    """`[k]` the DCG of 1, 2, ..., k relevant items at the top."""
    discounts = 1.0 / np.log2(np.arange(k) + 2.0)
    return jnp.asarray(np.cumsum(discounts), jnp.float32)
