"""Partitions: which client holds which training interaction."""

from fedjax_rec.data.partition.labels import Dirichlet, Drift, Shards, labels_of
from fedjax_rec.data.partition.units import (
    IID,
    ByAttribute,
    Partition,
    PerUser,
    QuantitySkew,
    Unit,
)

__all__ = [
    "IID", "ByAttribute", "Dirichlet", "Drift", "Partition", "PerUser", "QuantitySkew",
    "Shards", "Unit", "labels_of",
]  # fmt: skip
