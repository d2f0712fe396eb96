"""Means over seeds and differences over users and seeds, with 95 % intervals."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """A mean over seeds with half the width of its 95 % interval.

    Attributes:
        mean: mean over the seeds.
        half: Student's t of `n - 1` degrees times the standard error; `None` for one
            seed.
    """

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half is None else f" ± {self.half:.4f}")


class Difference(NamedTuple):
    """A paired comparison of two systems in one metric.

    Attributes:
        mean: mean difference over users and seeds.
        half: half the width of its 95 % interval.
        p: two-sided p-value.
    """

    mean: float
    half: float
    p: float


def spread(values: Sequence[float]) -> Spread:
    """Mean and half-width of the 95 % interval of the mean (Student's t).

    >>> print(spread([1.0, 2.0, 3.0]))  # 4.3027 / sqrt(3)
    2.0000 ± 2.4841
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(mean, None)
    from scipy.special import stdtrit

    error = statistics.stdev(values) / math.sqrt(len(values))
    return Spread(mean, float(stdtrit(len(values) - 1, 0.975)) * error)


def difference(values: np.ndarray) -> Difference:
    """Mean difference, its 95 % interval and p-value, clustered by seed and by user.

    With `d[s, u]` the difference of user `u` under seed `s`, the variance of the mean
    is `V_users + V_seeds - V_both`, each the cluster-robust variance of a mean [1], and
    at least the larger of the first two. Student's t has `min(S, U) - 1` degrees of
    freedom [2]. With one seed it is the paired t-test over users.

    Args:
        values: `[S, U]`.

    References:
        [1] Cameron, Gelbach and Miller, Robust Inference with Multiway Clustering,
        JBES 2011. [2] Cameron and Miller, A Practitioner's Guide to Cluster-Robust
        Inference, JHR 2015.

    >>> difference(np.array([[1.0, 2.0, 3.0]])).mean
    2.0
    """
    from scipy.special import stdtr, stdtrit

    values = np.asarray(values, np.float64)
    seeds, users = values.shape
    mean = float(values.mean())
    residual = values - mean

    def variance(sums: np.ndarray) -> float:
        """Variance of the mean from the residuals' sum in each cluster."""
        n = sums.size
        scale = n / (n - 1) if n > 1 else math.inf
        return scale * float((sums**2).sum()) / values.size**2

    by_user = variance(residual.sum(0))
    if seeds == 1:
        total, degrees = by_user, users - 1
    else:
        by_seed = variance(residual.sum(1))
        total = max(by_user + by_seed - variance(residual.ravel()), by_user, by_seed)
        degrees = min(seeds, users) - 1
    if degrees < 1:
        return Difference(mean, math.nan, math.nan)
    error = math.sqrt(total)
    if error == 0:
        return Difference(mean, 0.0, 1.0 if mean == 0 else 0.0)
    p = 2 * float(stdtr(degrees, -abs(mean) / error))
    return Difference(mean, float(stdtrit(degrees, 0.975)) * error, p)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values: each at most `alpha` if its test is rejected.

    References:
        Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, largest = [math.nan] * len(p), 0.0
    order = sorted((x, i) for i, x in enumerate(p) if not math.isnan(x))
    for rank, (x, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * x))
        corrected[i] = largest
    return corrected
