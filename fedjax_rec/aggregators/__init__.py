"""Aggregators: folds over the clients' deltas."""

from collections.abc import Callable

from fedjax_rec.aggregators.means import per_row_mean, total, weighted_mean
from fedjax_rec.types import Aggregator

AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "examples": weighted_mean,
    "uniform": lambda: weighted_mean(uniform=True),
    "per_row": per_row_mean,
    "per_row_uniform": lambda: per_row_mean(uniform=True),
    "sum": total,
}
