"""Expected metrics of a ranking at random, and their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fedjax_rec.evaluation.targets import Targets

LEAK = 4.0
"""Standard errors above chance that count as a leak: 1 in 30,000 by chance."""


def chance_level(targets: Targets, cutoffs: Sequence[int]) -> dict[str, float]:
    """Expectation and standard error of mean metrics under random rankings.

    A user with `p` positives among `n` candidates has a hit in the top `k` with
    probability `1 - C(n - p, k) / C(n, k)`; the AUC is the Mann-Whitney statistic,
    with variance `(n + 1) / (12 p (n - p))`, or less if scores are tied. Rankings of
    different users are independent.

    Args:
        targets: users and their candidates.
        cutoffs: the ks.

    Returns:
        `hr@k/chance`, `hr@k/error`, `auc/chance` and `auc/error`.

    References:
        Mann and Whitney, "On a test of whether one of two random variables is
        stochastically larger than the other", Ann. Math. Stat. 1947.
    """
    positive, negative = _counts(targets)
    users = len(positive)
    levels = {}
    for k in cutoffs:
        draw = np.arange(k)
        # Each draw misses the positives, given that the earlier ones did.
        left = np.maximum(negative[:, None] - draw, 0)
        miss = left / np.maximum(left + positive[:, None], 1)
        hit = 1 - miss.prod(axis=1)
        levels[f"hr@{k}/chance"] = float(hit.mean())
        levels[f"hr@{k}/error"] = float(np.sqrt((hit * (1 - hit)).sum()) / users)
    pairs = positive * negative
    variance = (positive + negative + 1) / (12 * np.maximum(pairs, 1))
    variance = np.where(pairs > 0, variance, 0)
    levels["auc/chance"] = 0.5
    levels["auc/error"] = float(np.sqrt(variance.sum()) / users)
    return levels


def above_chance(summary: Mapping[str, float], cutoff: int) -> tuple[str, ...]:
    """Metrics of a ranker without a model that lie `LEAK` errors above chance.

    Args:
        summary: its means, with the levels of `chance_level`.
        cutoff: the k of the hit rate.
    """
    return tuple(
        name
        for name in (f"hr@{cutoff}", "auc")
        if f"{name}/chance" in summary
        and summary[name] > summary[f"{name}/chance"] + LEAK * summary[f"{name}/error"]
    )


def _counts(targets: Targets) -> tuple[np.ndarray, np.ndarray]:
    """`[E]` positives and `[E]` negatives of the users with a positive, float64."""
    num_items = targets.num_items
    positive = (np.asarray(targets.positives) < num_items).sum(axis=1)
    present = positive > 0
    if targets.candidates is not None:
        negative = (np.asarray(targets.candidates) < num_items).sum(axis=1)
    else:
        ranked = np.ones(num_items + 1) if targets.pool is None else targets.pool
        ranked = np.append(np.asarray(ranked, np.float64)[:num_items], 0)
        before = np.cumsum(np.append(0, ranked[np.asarray(targets.exclude_items)]))
        start, size = np.asarray(targets.exclude_offset), targets.exclude_size
        excluded = before[start + np.asarray(size)] - before[start]
        negative = ranked.sum() - excluded - positive
    columns = positive[present], negative[present]
    return columns[0].astype(np.float64), columns[1].astype(np.float64)
