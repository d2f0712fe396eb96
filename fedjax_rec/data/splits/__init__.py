"""Splits of interactions into train, validation and test."""

from fedjax_rec.data.splits.settings import (
    ColdItems,
    ColdUsers,
    GlobalTime,
    LeaveLast,
    LeaveOneOut,
    Ratio,
)
from fedjax_rec.data.splits.split import Split

__all__ = [
    "ColdItems", "ColdUsers", "GlobalTime", "LeaveLast", "LeaveOneOut", "Ratio",
    "Split",
]  # fmt: skip
