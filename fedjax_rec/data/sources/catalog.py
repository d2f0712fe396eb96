"""Tables of users or items: identifiers, titles, attributes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedjax_rec.data.interactions import Entities
from fedjax_rec.data.sources.columns import ANY_ID, INTEGER_ID, Column, Vocabulary
from fedjax_rec.data.sources.tables import Table


class Catalog(NamedTuple):
    """Users or items of a table with one row each.

    Attributes:
        entities: The users or items, in the order of the table.
        repeated: Number of rows dropped because an earlier row had the same identifier.
    """

    entities: Entities
    repeated: int = 0


def read_catalog(
    table: Table,
    *,
    id_index: int = 0,
    title_index: int | None = None,
    strict: bool = False,
) -> Catalog:
    """Reads a table of users or items; the other columns become attributes.

    Args:
        table: The table.
        id_index: Index of the column of identifiers.
        title_index: Index of the column of titles, or `None` if there is none.
        strict: Whether identifiers must be distinct whole numbers. Otherwise the first
            row of a repeated identifier counts.
    """
    vocabulary = Vocabulary(integer=strict)
    expected = INTEGER_ID if strict else ANY_ID
    columns = [
        Column(name, index, list, "a text")
        for index, name in enumerate(table.names)
        if index != id_index
    ]
    codes, *texts = table.read([Column("id", id_index, vocabulary, expected), *columns])
    # Codes count up from 0, so a row is new if its code exceeds all earlier ones.
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    if strict and not new.all():
        row = int(np.argmin(new))
        message = f"id {vocabulary.ids[codes[row]]!r} a second time"
        raise table.error(row, message, "one line for each id")
    if not new.all():
        texts = [[t for t, keep in zip(c, new, strict=True) if keep] for c in texts]
    values = {c.index: v for c, v in zip(columns, texts, strict=True)}
    titles = None if title_index is None else values.pop(title_index)
    attributes = {table.names[index]: v for index, v in values.items()}
    entities = Entities(ids=vocabulary.ids, titles=titles, attributes=attributes)
    return Catalog(entities, int((~new).sum()))


def extend(entities: Entities, ids: Sequence[str]) -> Entities:
    """Appends further `ids` with empty texts.

    Args:
        entities: The known users or items.
        ids: All identifiers, beginning with those of `entities`.
    """
    blank = [""] * (len(ids) - len(entities.ids))
    return Entities(
        ids=ids,
        titles=None if entities.titles is None else [*entities.titles, *blank],
        attributes={name: [*v, *blank] for name, v in entities.attributes.items()},
    )
