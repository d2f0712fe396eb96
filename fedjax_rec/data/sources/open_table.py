"""Tables whose columns are found by name: the open-world sources' common reading.

Open world: the interactions may name users and items that no other table lists. They
are kept, with empty texts, and counted.
"""

from typing import Any

from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources.catalog import Catalog, extend, read_catalog
from fedjax_rec.data.sources.columns import (
    ANY_ID,
    NUMBER,
    TIMESTAMP,
    Timestamps,
    Vocabulary,
    floats,
)
from fedjax_rec.data.sources.headers import Header, read_header
from fedjax_rec.data.sources.history import require_history, require_rating
from fedjax_rec.data.sources.source import Inputs, Options
from fedjax_rec.data.sources.tables import Column, read_columns

OPTIONS = (
    "items_file",
    "users_file",
    "user",
    "item",
    "rating",
    "timestamp",
    "encoding",
    "min_rating",
)
"""What `read_table` and its callers' `find` take."""

_LISTS = ("genre", "genres", "category", "categories", "class", "tag", "tags")
_EMPTY = Catalog(Entities(ids=()))


def read_table(
    text: str, header: Header, inputs: Inputs, options: Options, name: str
) -> Interactions:
    """Reads a table with one interaction a row.

    Args:
        text: the table.
        header: of the table.
        inputs: `items` and `users` are the entities' tables, where there are any.
        options: of `OPTIONS`.
        name: of the data set.
    """
    catalogs = read_catalogs(inputs, options)
    users = Vocabulary(catalogs["users"].entities.ids)
    items = Vocabulary(catalogs["items"].entities.ids)
    clock = Timestamps()
    columns = [
        Column("user", header.require("user", options.get("user")), users, ANY_ID),
        Column("item", header.require("item", options.get("item")), items, ANY_ID),
    ]
    for role, convert, expected in (
        ("rating", floats(), NUMBER),
        ("timestamp", clock, TIMESTAMP),
    ):
        place = header.find(role, options.get(role))
        if place is not None:
            columns.append(Column(role, place, convert, expected))
    read = read_columns(
        text,
        header.label,
        header.delimiter,
        columns,
        width=len(header.names),
        skip=header.skip,
    )
    arrays = {column.name: values for column, values in zip(columns, read, strict=True)}
    notes = {"timestamps_truncated": clock.truncated} if clock.truncated else {}
    return build(arrays, users, items, catalogs, options, name, notes)


def read_catalogs(inputs: Inputs, options: Options) -> dict[str, Catalog]:
    """The tables of users and of items; empty where there is none."""
    return {role: _catalog(role, inputs, options) for role in ("users", "items")}


def build(
    arrays: dict[str, Any],
    users: Vocabulary,
    items: Vocabulary,
    catalogs: dict[str, Catalog],
    options: Options,
    name: str,
    notes: dict[str, int] | None = None,
) -> Interactions:
    """The interactions of parsed columns, merged, filtered, and counted.

    Args:
        arrays: `user`, `item`, and maybe `rating` and `timestamp`.
        users: the users met.
        items: the items met.
        catalogs: what is known of them.
        options: `min_rating` counts here.
        name: of the data set.
        notes: counts made so far.
    """
    notes = dict(notes or {})
    entities = {}
    for role, vocabulary in (("users", users), ("items", items)):
        catalog, ids = catalogs[role], vocabulary.ids
        known = len(catalog.entities.ids)
        if catalog.repeated:
            notes[f"{role}_rows_repeated"] = catalog.repeated
        if known and len(ids) > known:
            notes[f"{role}_without_metadata"] = len(ids) - known
        entities[role] = extend(catalog.entities, ids)
    interactions = make_interactions(**arrays, **entities, name=name, notes=notes)
    minimum = options.get("min_rating")
    if minimum is not None:
        interactions = require_rating(interactions, minimum)
    return require_history(interactions, 0)


def _catalog(role: str, inputs: Inputs, options: Options) -> Catalog:
    if role not in inputs:
        return _EMPTY
    file, singular = inputs[role], role.removesuffix("s")
    text = file.text(options.get("encoding", "utf-8"))
    bare = not options.get("header", True)
    header = read_header(text, file.label, first_is_data=bare)
    if bare:
        place, title = 0, 1
    else:
        place = _id_place(header, singular, options.get(singular))
        title = header.find("title")
    if role == "users":
        title = None  # a user's name is an attribute, and no text to recommend by
    attributes = {n: i for i, n in enumerate(header.names) if i not in (place, title)}
    catalog = read_catalog(
        text,
        file.label,
        header.delimiter,
        width=len(header.names),
        skip=header.skip,
        id_index=place,
        title_index=title,
        attributes=attributes,
    )
    entities = catalog.entities
    joined = {
        column: _join_lists(column, header.types.get(column, ""), values)
        for column, values in entities.attributes.items()
    }
    entities = Entities(ids=entities.ids, titles=entities.titles, attributes=joined)
    return Catalog(entities, catalog.repeated)


def _id_place(header: Header, role: str, name: str | None) -> int:
    """The identifiers' column: as the interactions call it, a known name, or `id`."""
    if name in header.names:
        return header.names.index(name)
    if header.find(role) is None and "id" in header.names:
        return header.names.index("id")
    return header.require(role)


def _join_lists(column: str, kind: str, values: Any) -> list[str]:
    """The values of a RecBole sequence column joined by `|`.

    RecBole calls a description a `token_seq` as well, so only columns with the name
    of a list count. Amazon's categories hold spaces and are separated by a comma.
    """
    if kind != "token_seq" or column.lower() not in _LISTS:
        return list(values)
    separator = "," if any("," in value for value in values) else None
    return [
        "|".join(part.strip(" '\"") for part in value.split(separator))
        for value in values
    ]
