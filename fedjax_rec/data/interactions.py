"""Interactions of users with items: the form into which every source is read."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entities:
    """The users or the items of a data set, in index order.

    Attributes:
        ids: Raw identifiers as spelled in the files, `[n]` strings.
        titles: One text per entity, or `None` if the source has none.
        attributes: Column name to one string per entity. Several values of a column
            are joined by `|`, such as MovieLens genres.
    """

    ids: Sequence[str]
    titles: Sequence[str] | None = None
    attributes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

    def take(self, index: np.ndarray) -> "Entities":
        """Returns the entities at the integers `index`, in that order."""
        rows: list[int] = index.tolist()

        def pick(values: Sequence[str]) -> list[str]:
            return [values[row] for row in rows]

        return Entities(
            ids=pick(self.ids),
            titles=None if self.titles is None else pick(self.titles),
            attributes={name: pick(v) for name, v in self.attributes.items()},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """Interactions sorted by (user, timestamp, position).

    Attributes:
        user: `[n]` int32 in `[0, num_users)`.
        item: `[n]` int32 in `[0, num_items)`.
        rating: `[n]` float32; 1 if the source has no ratings.
        timestamp: `[n]` int64, seconds or any other monotone clock.
        position: `[n]` int64, line order in the file, which breaks timestamp ties.
        users: The users behind the indices.
        items: The items behind the indices.
        name: Name of the data set.
        notes: Number of rows that reading merged, dropped or completed, by reason.
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray
    position: np.ndarray
    users: Entities
    items: Entities
    name: str = "unnamed"
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def num_users(self) -> int:
        return len(self.users.ids)

    @property
    def num_items(self) -> int:
        return len(self.items.ids)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, where: np.ndarray) -> "Interactions":
        """Returns the interactions at `where` (indices or mask), entities unchanged."""
        columns = ("user", "item", "rating", "timestamp", "position")
        return dataclasses.replace(
            self, **{name: getattr(self, name)[where] for name in columns}
        )

    def offsets(self) -> np.ndarray:
        """`[num_users + 1]` int64: user `u` owns rows `offsets[u]:offsets[u + 1]`."""
        counts = np.bincount(self.user, minlength=self.num_users)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def make_interactions(
    *,
    user: np.ndarray,
    item: np.ndarray,
    rating: np.ndarray | None = None,
    timestamp: np.ndarray | None = None,
    users: Entities,
    items: Entities,
    name: str = "unnamed",
    notes: Mapping[str, int] | None = None,
) -> Interactions:
    """Sorts columns given in file order and merges repeated (user, item) pairs.

    The latest interaction of a repeated pair is kept; of equal timestamps, the one
    later in the file. `notes["duplicates_merged"]` counts the others. Without
    timestamps, `notes["timestamps_missing"]` counts the interactions.

    Args:
        user: `[n]` integers in `[0, len(users.ids))`, in file order.
        item: `[n]` integers in `[0, len(items.ids))`.
        rating: `[n]` floats, or `None` for all 1.
        timestamp: `[n]` integers, or `None` for file order.
        users: The users behind the indices.
        items: The items behind the indices.
        name: Name of the data set.
        notes: Counts made so far.

    Returns:
        The interactions in canonical order.

    Raises:
        ValueError: An index is out of range, or columns differ in length.
    """
    n = len(user)
    position = np.arange(n, dtype=np.int64)
    rating = np.ones(n, np.float32) if rating is None else rating
    notes = dict(notes or {})
    if timestamp is None:
        timestamp, notes["timestamps_missing"] = position, n
    for label, column in (("item", item), ("rating", rating), ("timestamp", timestamp)):
        if len(column) != n:
            raise ValueError(f"column {label!r} has {len(column)} rows, user has {n}")
    for label, column, size in (
        ("user", user, len(users.ids)),
        ("item", item, len(items.ids)),
    ):
        if n and not (column.min() >= 0 and column.max() < size):
            actual = f"[{column.min()}, {column.max()}]"
            raise ValueError(f"{label} indices lie in {actual}, expected [0, {size})")
    order = np.lexsort((position, timestamp, item, user))
    pair_user, pair_item = user[order], item[order]
    last = np.ones(n, bool)
    last[:-1] = (pair_user[1:] != pair_user[:-1]) | (pair_item[1:] != pair_item[:-1])
    rows = order[last]
    rows = rows[np.lexsort((position[rows], timestamp[rows], user[rows]))]
    merged = notes.get("duplicates_merged", 0) + n - len(rows)
    return Interactions(
        user=user[rows].astype(np.int32),
        item=item[rows].astype(np.int32),
        rating=rating[rows].astype(np.float32),
        timestamp=timestamp[rows].astype(np.int64),
        position=position[rows],
        users=users,
        items=items,
        name=name,
        notes={**notes, "duplicates_merged": merged},
    )
