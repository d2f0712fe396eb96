"""Checks that a split holds out what the protocol evaluates."""

from typing import Any

from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol


def check_candidates(held_out: Any, protocol: Protocol) -> None:
    """Raises a ValueError if held-out items are ranked among trained ones.

    No held-out item is ever drawn as a negative, so they would all rank above the
    items that were: even a ranker without a model finds them.

    Args:
        held_out: whether the split holds items out of training.
        protocol: the protocol.
    """
    if held_out and protocol.candidates != "cold":
        raise ValueError(
            f"protocol.candidates={protocol.candidates!r}: the split holds items out "
            "of all training, negatives included. Ranked among trained items they "
            "would be found by whether an item was ever drawn as a negative, without "
            "any model. Use protocol.candidates='cold', which ranks the held-out items "
            "only"
        )


def untimed(split: Split) -> str:
    """The warning about a split by time of data without timestamps, else empty."""
    missing = split.train.notes.get("timestamps_missing", 0)
    if not (missing and split.by_time):
        return ""
    return (
        f"{missing:,} interactions of {split.train.name!r} have no timestamps, and "
        f"{split.name} orders them by time: their order in the source was taken. In a "
        "table sorted by user and item the latest interaction is then the largest item "
        "id. Name the column of timestamps, or use split=Ratio(by='random')"
    )
