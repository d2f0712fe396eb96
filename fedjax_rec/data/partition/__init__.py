"""Partitioners: which client holds which interaction. Pure functions of a key."""

from fedjax_rec.data.partition.assignment import Partition, Unit
from fedjax_rec.data.partition.by_user import by_attribute, per_user
from fedjax_rec.data.partition.label_skew import dirichlet, shards
from fedjax_rec.data.partition.labels import labels_of
from fedjax_rec.data.partition.over_time import drift
from fedjax_rec.data.partition.size_skew import quantity_skew
from fedjax_rec.data.partition.uniform import iid

__all__ = [
    "Partition",
    "Unit",
    "by_attribute",
    "dirichlet",
    "drift",
    "iid",
    "labels_of",
    "per_user",
    "quantity_skew",
    "shards",
]
