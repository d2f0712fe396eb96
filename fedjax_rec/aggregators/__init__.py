"""Aggregators: folds over the clients' deltas."""

from collections.abc import Callable

from fedjax_rec.aggregators.attention import attentive
from fedjax_rec.aggregators.fair import (
    by_effective_number,
    by_magnitude,
    by_size,
    q_fedavg,
    tilted,
)
from fedjax_rec.aggregators.means import per_row_mean, total, weighted_mean
from fedjax_rec.types import Aggregator

AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "examples": weighted_mean,
    "uniform": lambda: weighted_mean(uniform=True),
    "per_row": per_row_mean,
    "per_row_uniform": lambda: per_row_mean(uniform=True),
    "sum": total,
    "q_fedavg": q_fedavg,
    "tilted": tilted,
    "by_size": by_size,
    "by_effective_number": by_effective_number,
    "by_magnitude": by_magnitude,
    "attentive": attentive,
}
