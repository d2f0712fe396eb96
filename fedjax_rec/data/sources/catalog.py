"""The users' or items' own table: identifiers, titles, attributes."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from fedjax_rec.data.interactions import Entities
from fedjax_rec.data.sources.columns import ANY_ID, Vocabulary
from fedjax_rec.data.sources.tables import Column, line_of, read_columns
from fedjax_rec.storage.errors import FileError


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What a table says about users or items, one row each.

    Attributes:
        entities: in the table's order.
        repeated: rows dropped because an earlier one had the same identifier.
    """

    entities: Entities
    repeated: int = 0


def read_catalog(
    text: str,
    label: str,
    delimiter: str,
    *,
    width: int,
    id_index: int,
    title_index: int | None = None,
    attributes: Mapping[str, int] | None = None,
    skip: int = 0,
    integer: bool = False,
    id_expected: str = ANY_ID,
    unique: bool = False,
) -> Catalog:
    """Reads a table of users or items.

    Args:
        text: the file's text.
        label: the file's name in errors.
        delimiter: between fields.
        width: fields a row.
        id_index: the identifier's place.
        title_index: the title's place, or `None` where there is none.
        attributes: attribute name to place.
        skip: header rows.
        integer: whether identifiers must be whole numbers.
        id_expected: what an identifier is, in words.
        unique: whether a repeated identifier is an error; else the first row counts.
    """
    attributes = attributes or {}
    vocabulary = Vocabulary(integer=integer)
    columns = [Column("id", id_index, vocabulary, id_expected)]
    if title_index is not None:
        columns.append(Column("title", title_index, list, "a text"))
    columns += [Column(name, index, list, "") for name, index in attributes.items()]
    codes, *texts = read_columns(
        text, label, delimiter, columns, width=width, skip=skip
    )
    # Codes count up from 0, so a row repeats an earlier one where its code is no
    # new maximum.
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    if unique and not new.all():
        row = int(np.argmin(new))
        raise FileError(
            f"id {vocabulary.ids[codes[row]]!r} a second time",
            file=label,
            line=line_of(text, delimiter, row + skip),
            expected="one line for each id",
        )
    if not new.all():
        texts = [[t for t, keep in zip(c, new, strict=True) if keep] for c in texts]
    titles = texts.pop(0) if title_index is not None else None
    entities = Entities(
        ids=vocabulary.ids,
        titles=titles,
        attributes=dict(zip(attributes, texts, strict=True)),
    )
    return Catalog(entities, int((~new).sum()))


def extend(entities: Entities, ids: Sequence[str]) -> Entities:
    """`entities` with the further `ids` at the end, their texts empty.

    Args:
        entities: the known ones.
        ids: all identifiers; the first ones are those of `entities`.
    """
    blank = [""] * (len(ids) - len(entities.ids))
    return Entities(
        ids=ids,
        titles=None if entities.titles is None else [*entities.titles, *blank],
        attributes={name: [*v, *blank] for name, v in entities.attributes.items()},
    )
