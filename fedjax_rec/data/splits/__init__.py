"""Splits: what is trained on, what selects, and what is reported."""

from fedjax_rec.data.splits.cold import cold_items, cold_users
from fedjax_rec.data.splits.split import Split
from fedjax_rec.data.splits.within_users import global_time, leave_one_out, ratio

__all__ = [
    "Split",
    "cold_items",
    "cold_users",
    "global_time",
    "leave_one_out",
    "ratio",
]
