"""Texts of different lengths, several end to end in a row (layer 0).

Titles are short and uneven: padded to the longest, most of what a backbone computes is
padding. A catalog is packed once on the host (`plan`); a client's batch, whose items
are known only inside the compiled program, is folded into rows there (`fold`).
"""

from fedjax_rec.core.packing.encode import encode_packed, everybody
from fedjax_rec.core.packing.fold import fold, fold_width
from fedjax_rec.core.packing.lists import (
    Lists,
    at_places,
    make_lists,
    with_lengths,
)
from fedjax_rec.core.packing.plan import Plan, plan, rows_of

__all__ = [
    "Lists",
    "Plan",
    "at_places",
    "encode_packed",
    "everybody",
    "fold",
    "fold_width",
    "make_lists",
    "plan",
    "rows_of",
    "with_lengths",
]
