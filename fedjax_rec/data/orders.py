"""Other orders of the rows of a data set, which decide between equal timestamps."""

import dataclasses

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources import convert
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.data.sources.tables import Column, open_table
from fedjax_rec.storage.errors import FileError


def quicksorted_by_user(data: Interactions) -> Interactions:
    """The order in which NumPy's quicksort, which is not stable, sorts rows by user.

    Published code often reads a copy of MovieLens 100K that pandas has sorted by user
    with its default method. Such a copy is `data/ml-100k/ratings.dat` of PFedRec's code
    (github.com/Zhangcx19/IJCAI-23-PFedRec).

    Args:
        data: Interactions with whole numbers as users' ids.

    Raises:
        FileError: Rows were merged or dropped, on which the order depends, or an id is
            no number.
    """
    dropped = sum(data.notes.values())
    if dropped:
        raise FileError(
            f"order='quicksort_by_user' with {dropped} merged, dropped or changed rows",
            expected="all rows of the file, with min_interactions=0",
        )
    rows = np.argsort(data.position)  # the source's order
    try:
        ids = np.array([int(name) for name in data.users.ids])[data.user[rows]]
    except ValueError as error:
        raise FileError(f"users' ids ({error})", expected="whole numbers") from error
    # Typed arrays are sorted by other methods, which differ between processors.
    quicksorted = np.argsort(ids.astype(object), kind="quicksort")
    return _with_positions(data, rows[quicksorted])


def ordered_as(data: Interactions, file: InputFile) -> Interactions:
    """The order of the rows of another table of the same interactions.

    Args:
        data: The interactions.
        file: A table without a header, with user and item in the first two columns;
            rows that `data` lack are ignored.

    Raises:
        FileError: The table lacks interactions, or repeats one.
    """
    table = open_table(file, header=False)
    user, item = table.read(
        [
            Column("user", 0, convert.identifiers, convert.ANY_ID),
            Column("item", 1, convert.identifiers, convert.ANY_ID),
        ]
    )
    place = {pair: row for row, pair in enumerate(zip(user, item, strict=True))}
    if len(place) < len(user):
        raise FileError(
            f"{len(user) - len(place)} repeated interactions",
            file=file.label,
            expected="one row for each user and item",
        )
    users, items = data.users.ids, data.items.ids
    pairs = zip(data.user.tolist(), data.item.tolist(), strict=True)
    places = np.array([place.get((users[u], items[i]), -1) for u, i in pairs], np.int64)
    missing = int((places < 0).sum())
    if missing:
        raise FileError(
            f"{missing} of the {len(data)} interactions are absent",
            file=file.label,
            expected=f"all interactions of {data.name!r}",
        )
    return _with_positions(data, np.argsort(places))


def _with_positions(data: Interactions, order: np.ndarray) -> Interactions:
    """The interactions with row `order[p]` at position `p`."""
    position = np.empty(len(data), np.int64)
    position[order] = np.arange(len(data))
    rows = np.lexsort((position, data.timestamp, data.user))
    return dataclasses.replace(data, position=position).take(rows)
