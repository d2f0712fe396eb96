"""Texts of different lengths, several end to end in a row (layer 0).

Titles are short and uneven: padded to the longest, most of a backbone's work would be
on padding. A catalog is packed once on the host (`plan`). The items of a client's batch
are known only inside the compiled program, which folds them into rows (`fold`).
"""

from fedjax_rec.core.packing.encode import encode_packed
from fedjax_rec.core.packing.fold import fold, fold_width
from fedjax_rec.core.packing.plan import (
    Lists,
    Plan,
    at_slots,
    make_lists,
    plan,
    with_lengths,
)

__all__ = [
    "Lists",
    "Plan",
    "at_slots",
    "encode_packed",
    "fold",
    "fold_width",
    "make_lists",
    "plan",
    "with_lengths",
]
