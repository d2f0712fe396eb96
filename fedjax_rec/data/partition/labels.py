"""Labels of interactions: what label-skewed partitions are skewed in."""

from collections.abc import Sequence

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition.assignment import Units

DEFAULT_COLUMNS = ("genres", "genre", "category", "categories", "rating")
"""Tried in this order when no column is named."""


def labels_of(train: Interactions, column: str | None = None) -> np.ndarray:
    """`[n]` int32 labels of the interactions, numbered by the sorted values.

    Args:
        train: the training interactions.
        column: an item attribute (of values joined by `|` the first), a user
            attribute, or `rating`; by default the first of `DEFAULT_COLUMNS` there is.

    Returns:
        Labels in `[0, L)`. Labels of items nobody touched count towards `L`.

    Raises:
        ValueError: no such column; the message lists those there are.

    >>> from fedjax_rec.data.interactions import Entities, make_interactions
    >>> items = Entities(ids=["a", "b"], attributes={"genres": ["War|Drama", "Drama"]})
    >>> users, u, i = Entities(ids=["u"]), np.array([0, 0]), np.array([1, 0])
    >>> data = make_interactions(user=u, item=i, users=users, items=items)
    >>> labels_of(data, "genres").tolist()
    [0, 1]
    """
    items, users = train.items.attributes, train.users.attributes
    if column is None:
        column = next(name for name in DEFAULT_COLUMNS if name in (*items, "rating"))
    if column in items:
        return _encode([value.split("|")[0] for value in items[column]])[train.item]
    if column in users:
        return _encode(users[column])[train.user]
    if column == "rating":
        return np.unique(train.rating, return_inverse=True)[1].astype(np.int32)
    known = ", ".join(sorted({*items, *users, "rating"}))
    raise ValueError(
        f"{train.name!r} has no column {column!r} to take labels from; available: "
        f"{known}"
    )


def check_labels(labels: np.ndarray, train: Interactions) -> np.ndarray:
    """`labels` as int32, if there is one not below 0 for every interaction."""
    labels = np.asarray(labels)
    if labels.shape != (len(train),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}, expected one integer "
            f"for each of the {len(train)} interactions; see labels_of"
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels start at {labels.min()}, expected 0; see labels_of")
    return labels.astype(np.int32)


def labels_of_units(labels: np.ndarray, units: Units) -> np.ndarray:
    """`[units.count]`: each unit's most frequent label, the smaller one of a tie."""
    if units.users is None:
        return labels
    num_labels = int(labels.max(initial=0)) + 1
    pair, count = np.unique(
        units.index.astype(np.int64) * num_labels + labels, return_counts=True
    )
    unit, label = np.divmod(pair, num_labels)
    order = np.lexsort((-label, count, unit))
    last = np.flatnonzero(np.diff(unit[order], append=-1))
    return label[order][last].astype(np.int32)


def _encode(values: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(values, str), return_inverse=True)[1].astype(np.int32)
