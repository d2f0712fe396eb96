"""Settings of all aggregation rules by name: each at its defaults, and variants."""

from typing import Any

from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.medians import (
    GeometricMedian,
    Median,
    TrimmedMean,
)
from fedjax_rec.aggregators.robust.neighbours import NNM
from fedjax_rec.experiment import registry

RULES: dict[str, Any] = {
    name: registry.load("aggregation", name)() for name in registry.SLOTS["aggregation"]
} | {
    "mean uniform": Mean(weights="uniform"),
    "mean per row": Mean(per_row=True),
    "mean per row uniform": Mean(weights="uniform", per_row=True),
    "nnm trimmed mean": NNM(then=TrimmedMean()),
    "median of voters": Median(voting="voters"),
    "trimmed mean of voters": TrimmedMean(voting="voters"),
    "geometric median of voters": GeometricMedian(voting="voters"),
    "median diluted": Median(voting="diluted"),
    "trimmed mean diluted": TrimmedMean(voting="diluted"),
    "geometric median diluted": GeometricMedian(voting="diluted"),
}
