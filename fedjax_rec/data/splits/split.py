"""Disjoint parts of a data set, and what every split needs."""

import dataclasses
from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Interactions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A data set in disjoint parts; the entities of each are those of the whole.

    Attributes:
        train: what clients hold.
        val: what selection may look at.
        test: what is reported.
        name: of the split, with its options.
        info: what evaluation must know. Always `test_users_without_train` and
            `test_items_without_train` (counts); the splits document what they add.
            `cold_users` moves a fourth part here, `query`.
    """

    train: Interactions
    val: Interactions
    test: Interactions
    name: str
    info: dict[str, Any]

    def counts(self) -> dict[str, int | float]:
        """The sizes of the parts and the numbers in `info`, ready for a report."""
        sizes = {part: len(getattr(self, part)) for part in ("train", "val", "test")}
        plain = {k: v for k, v in self.info.items() if isinstance(v, int | float)}
        return {**sizes, **plain}


def split_by(
    data: Interactions,
    *,
    val: np.ndarray,
    test: np.ndarray,
    name: str,
    info: dict[str, Any],
    query: np.ndarray | None = None,
) -> Split:
    """The split of the masks `val`, `test` and `query` (`[n]`); the rest is train."""
    train = ~(val | test)
    if query is not None:
        train &= ~query
        info = {**info, "query": data.take(query)}
    counts = {
        f"test_{kind}s_without_train": len(np.setdiff1d(column[test], column[train]))
        for kind, column in (("user", data.user), ("item", data.item))
    }
    return Split(
        train=data.take(train),
        val=data.take(val),
        test=data.take(test),
        name=name,
        info={**info, **counts},
    )


def sizes_of(data: Interactions) -> np.ndarray:
    """`[U]`: each user's number of interactions."""
    return np.bincount(data.user, minlength=data.num_users)


def rank_from_end(data: Interactions, order: np.ndarray) -> np.ndarray:
    """`[n]`: 0 for each user's last interaction under `order`, which sorts by user."""
    user = data.user[order]
    rank = np.empty(len(data), np.int64)
    rank[order] = data.offsets()[1:][user] - 1 - np.arange(len(data))
    return rank


def check_shares(**shares: float) -> None:
    """Refuses `(val, test)` shares that are negative, no test, or leave no train."""
    (val_name, val), (test_name, test) = shares.items()
    if not (val >= 0 and test > 0 and val + test < 1):
        raise ValueError(
            f"{val_name}={val} and {test_name}={test}: expected {val_name} >= 0, "
            f"{test_name} > 0 and a sum below 1, so that train keeps something"
        )
