"""Interactions: who touched what, when; the form every source is read into."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entities:
    """The users or the items of a data set, in index order.

    Attributes:
        ids: the raw identifiers as the files spell them, `[n]` strings.
        titles: one text an entity, or `None` where the source has none.
        attributes: column name to one string an entity; several values of one column
            are joined by `|` (MovieLens genres).
    """

    ids: Sequence[str]
    titles: Sequence[str] | None = None
    attributes: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactions:
    """Interactions sorted by (user, timestamp, position).

    Attributes:
        user: `[n]` int32 in `[0, num_users)`.
        item: `[n]` int32 in `[0, num_items)`.
        rating: `[n]` float32; 1 where the source has no ratings.
        timestamp: `[n]` int64, seconds or any monotone clock.
        position: `[n]` int64, the line's order in the file: breaks timestamp ties.
        users, items: the entities behind the indices.
        name: of the data set.
        notes: counts of what reading it merged or dropped, by reason.
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
        """The interactions at `where` (indices or a mask), entities unchanged."""
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
    """Sorts columns given in file order, and merges repeated (user, item) pairs.

    Of a repeated pair the latest interaction is kept (of equal timestamps the one
    later in the file), and the number merged is added to `notes["duplicates_merged"]`.

    Args:
        user: `[n]` integers in `[0, len(users.ids))`, in file order.
        item: `[n]` integers in `[0, len(items.ids))`.
        rating: `[n]` floats, or `None` for all 1.
        timestamp: `[n]` integers, or `None` for file order.
        users: the users behind the indices.
        items: the items behind the indices.
        name: of the data set.
        notes: counts made so far.

    Returns:
        The canonical form.

    Raises:
        ValueError: an index is out of range, or columns differ in length.
    """
    n = len(user)
    position = np.arange(n, dtype=np.int64)
    rating = np.ones(n, np.float32) if rating is None else rating
    timestamp = position if timestamp is None else timestamp
    for label, column in (("item", item), ("rating", rating), ("timestamp", timestamp)):
        if len(column) != n:
            raise ValueError(f"column {label!r} has {len(column)} rows, user has {n}")
    for label, column, size in (
        ("user", user, len(users.ids)),
        ("item", item, len(items.ids)),
    ):
        if n and not (column.min() >= 0 and column.max() < size):
            raise ValueError(
                f"{label} indices lie in [{column.min()}, {column.max()}], expected "
                f"[0, {size})"
            )
    order = np.lexsort((position, timestamp, item, user))
    pair_user, pair_item = user[order], item[order]
    last = np.ones(n, bool)
    last[:-1] = (pair_user[1:] != pair_user[:-1]) | (pair_item[1:] != pair_item[:-1])
    kept = order[last]
    kept = kept[np.lexsort((position[kept], timestamp[kept], user[kept]))]
    counted = dict(notes or {})
    counted["duplicates_merged"] = counted.get("duplicates_merged", 0) + n - len(kept)
    return Interactions(
        user=user[kept].astype(np.int32),
        item=item[kept].astype(np.int32),
        rating=rating[kept].astype(np.float32),
        timestamp=timestamp[kept].astype(np.int64),
        position=position[kept],
        users=users,
        items=items,
        name=name,
        notes=counted,
    )
