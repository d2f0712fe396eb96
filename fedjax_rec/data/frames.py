"""Interactions from frames of pandas or polars, from arrays, and from any rows.

A frame is anything with columns by name: `frame[name]` is a column. Columns are read by
position, never by an index.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fedjax_rec.data.columns import ids_of, ratings_of, texts_of, times_of
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources.convert import Vocabulary
from fedjax_rec.data.sources.source import extend


def from_frame(
    frame: Any,
    *,
    user: str = "user",
    item: str = "item",
    rating: str | None = "",
    timestamp: str | None = "",
    items: Any = None,
    users: Any = None,
    name: str = "frame",
) -> Interactions:
    """Interactions from a frame with one row each, such as of pandas or polars.

    Repeated pairs of user and item count once, see `make_interactions`.

    Args:
        frame: a frame, or a dict of columns.
        user: column of user ids: texts, or whole numbers, which become texts.
        item: column of item ids.
        rating: column of ratings; `None` for none, and empty for `rating`, if there is
            such a column.
        timestamp: column of whole numbers, or of dates, which become nanoseconds since
            1970 in UTC; `None` and empty as for `rating`. Without timestamps the order
            of the rows counts.
        items: a frame with a row for each item: the column `item`, maybe `title`, and
            attributes. Its items come first, also those without an interaction; other
            items have empty texts, and `notes["items_without_metadata"]` counts them.
        users: a frame with a row for each user: the column `user`, and attributes.
        name: name of the data set.

    Raises:
        ValueError: a column is absent, or has a value that is missing or of another
            kind; the message names the column and the first such row, from 0.

    >>> data = from_frame({"user": ["ann", "ann", "bob"], "item": [7, 9, 7]})
    >>> data.users.ids, data.items.ids, data.item
    (['ann', 'bob'], ['7', '9'], array([0, 1, 0], dtype=int32))
    """
    columns = names_of(frame)
    known = {
        "user": _entities(users, "user", user),
        "item": _entities(items, "item", item),
    }
    arrays: dict[str, Any] = {}
    entities: dict[str, Any] = {}
    notes: dict[str, int] = {}
    for role, column in (("user", user), ("item", item)):
        listed = known[role]
        vocabulary = Vocabulary(listed.ids)
        values = _values(frame, columns, role, column)
        arrays[role] = vocabulary(ids_of(values, column))
        if listed.ids and (further := len(vocabulary.ids) - len(listed.ids)):
            notes[f"{role}s_without_metadata"] = further
        entities[f"{role}s"] = extend(listed, vocabulary.ids)
    for role, column in (("rating", rating), ("timestamp", timestamp)):
        wanted = role if column == "" and role in columns else column
        if wanted:
            arrays[role] = _values(frame, columns, role, wanted)
    if "rating" in arrays:
        arrays["rating"] = ratings_of(arrays["rating"], rating or "rating")
    if "timestamp" in arrays:
        times, counts = times_of(arrays["timestamp"], timestamp or "timestamp")
        arrays["timestamp"], notes = times, {**notes, **counts}
    lengths = {role: len(values) for role, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{role} {length}" for role, length in lengths.items())
        raise ValueError(f"columns of different lengths: {shown}; expected one length")
    if not len(arrays["user"]):
        raise ValueError("the frame has no rows; expected at least one interaction")
    return make_interactions(**arrays, **entities, name=name, notes=notes)


def from_rows(
    rows: Iterable[Any],
    columns: Sequence[str] = ("user", "item", "rating", "timestamp"),
    **options: Any,
) -> Interactions:
    """Interactions from any iterable of tuples or dicts.

    Args:
        rows: dicts with equal keys, or tuples of equal length.
        columns: names of the values of a tuple; tuples may be shorter.
        **options: see `from_frame`.

    Raises:
        ValueError: a row has other values than the first one; or see `from_frame`.

    >>> rows = ((user, item, 1.0) for user in "ab" for item in range(3))
    >>> len(from_rows(rows))
    6
    """
    rows = list(rows)
    if not rows:
        raise ValueError("there are no rows; expected at least one interaction")
    first = rows[0]
    if isinstance(first, Mapping):
        names, keys = list(first), set(first)
        for at, row in enumerate(rows):
            if not isinstance(row, Mapping) or row.keys() != keys:
                _refuse_row(
                    at, row, f"a dict with the keys {', '.join(map(str, names))}"
                )
        return from_frame({n: [row[n] for row in rows] for n in names}, **options)
    if isinstance(first, str) or not isinstance(first, Sequence):
        _refuse_row(0, first, "a tuple or a dict")
    if not 2 <= len(first) <= len(columns):
        expected = f"2 to {len(columns)} values ({', '.join(columns)})"
        _refuse_row(0, first, f"{expected}; columns=(...) names others")
    for at, row in enumerate(rows):
        if not isinstance(row, Sequence) or len(row) != len(first):
            _refuse_row(at, row, f"{len(first)} values, as in row 0")
    names = columns[: len(first)]
    by_column = {n: [row[i] for row in rows] for i, n in enumerate(names)}
    return from_frame(by_column, **options)


def _refuse_row(at: int, row: Any, expected: str) -> None:
    raise ValueError(f"row {at} is {row!r:.80}; expected {expected}")


def names_of(frame: Any) -> list[str]:
    """The names of a frame's columns.

    Raises:
        TypeError: it has none.
    """
    for attribute in ("column_names", "columns"):  # of pyarrow; of pandas and polars
        if (names := getattr(frame, attribute, None)) is not None:
            return [str(name) for name in names]
    if isinstance(frame, Mapping):
        return [str(name) for name in frame]
    raise TypeError(
        f"{type(frame).__name__} has no columns: expected a frame of pandas or polars, "
        "or a dict of columns. Rows are read by from_rows"
    )


def _values(frame: Any, columns: Sequence[str], role: str, column: str) -> np.ndarray:
    """A column as an array.

    Raises:
        ValueError: it is absent, or occurs twice.
    """
    if column not in columns:
        near = difflib.get_close_matches(column.lower(), columns, n=1, cutoff=0.5)
        hint = f". Name it, such as {role}={near[0]!r}" if near else ""
        raise ValueError(
            f"there is no column {column!r} for the {role}; the frame has "
            f"{', '.join(columns) or 'no columns'}{hint}"
        )
    values = frame[column]
    if isinstance(values, list | tuple):  # NumPy would turn [1, "a"] into texts
        array = np.empty(len(values), object)
        array[:] = values
        return array
    array = values.to_numpy() if hasattr(values, "to_numpy") else np.asarray(values)
    if array.ndim != 1:
        raise ValueError(
            f"the column {column!r} has shape {array.shape}; expected one value a row, "
            "and one column of that name"
        )
    return array


def _entities(frame: Any, role: str, column: str) -> Entities:
    """Users or items with their texts; none without a frame."""
    if frame is None:
        return Entities(ids=())
    columns = names_of(frame)
    ids = ids_of(_values(frame, columns, role, column), column)
    first: dict[str, int] = {}
    for row, value in enumerate(ids):
        if first.setdefault(value, row) != row:
            raise ValueError(
                f"{role}s: {column} {value!r} in rows {first[value]} and {row}; "
                f"expected one row for each {role}"
            )
    texts = {
        name: texts_of(_values(frame, columns, name, name), name)
        for name in columns
        if name != column
    }
    uneven = [name for name, values in texts.items() if len(values) != len(ids)]
    if uneven:
        raise ValueError(
            f"{role}s: the column {uneven[0]!r} has {len(texts[uneven[0]])} rows, and "
            f"{column!r} has {len(ids)}; expected one length"
        )
    titles = texts.pop("title", None) if role == "item" else None
    return Entities(ids=ids, titles=titles, attributes=texts)
