"""Sources whose columns are found by name: `csv` and RecBole's atomic files (`amazon`).

The interactions may name users and items that no other table lists. These are kept,
with empty texts, and counted.

References:
    Zhao et al., RecBole: Towards a Unified, Comprehensive and Efficient Framework for
    Recommendation Algorithms, CIKM 2021.
    Hou et al., Bridging Language and Items for Retrieval and Recommendation, 2024.
"""

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_rec.data.filters import require_history, require_rating
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources.catalog import Catalog, extend, read_catalog
from fedjax_rec.data.sources.columns import (
    ANY_ID,
    NUMBER,
    TIMESTAMP,
    Column,
    Timestamps,
    Vocabulary,
    floats,
    identifiers,
)
from fedjax_rec.data.sources.source import Inputs, Options, Source, find_table
from fedjax_rec.data.sources.tables import DELIMITERS, Table, open_table

_OPTIONS = (
    "file", "items_file", "users_file", "user", "item", "rating", "timestamp",
    "encoding", "min_rating",
)  # fmt: skip
_HISTORY = "item_id_list"
_LISTS = ("genre", "genres", "category", "categories", "class", "tag", "tags")


class _Known(NamedTuple):
    """Users or items: their table, and all identifiers found so far."""

    catalog: Catalog
    vocabulary: Vocabulary


def _find_csv(path: Path, options: Options) -> Inputs:
    suffixes = (".csv", ".tsv", ".dat", ".txt", ".data", ".inter")
    return find_table(path, options, suffixes)


def _parse_csv(inputs: Inputs, options: Options) -> Interactions:
    header = options.get("header", True)
    table = open_table(
        inputs["interactions"],
        options.get("encoding", "utf-8"),
        options.get("delimiter"),
        header=header,
    )
    if not header:
        roles = ("user", "item", "rating", "timestamp")
        options = {**dict(zip(roles, table.names, strict=False)), **options}
    return _read_rows(table, inputs, options, CSV.name)


def _find_atomic(path: Path, options: Options) -> Inputs:
    sidecars = {"items": ".item", "users": ".user"}
    return find_table(path, options, (".inter",), sidecars)


def _parse_atomic(inputs: Inputs, options: Options) -> Interactions:
    """Parses `.inter` files.

    They have one interaction per row (`user_id`, `item_id`, optionally `rating` and
    `timestamp`), or one user per row (`user_id`, `item_id_list`, `item_id`: the history
    in order, and the item after it).
    """
    encoding = options.get("encoding", "utf-8")
    table = open_table(inputs["interactions"], encoding, "\t")
    read = _read_histories if _HISTORY in table.names else _read_rows
    return read(table, inputs, options, AMAZON.name)


def _read_rows(
    table: Table, inputs: Inputs, options: Options, name: str
) -> Interactions:
    """Reads a table with one interaction per row."""
    users, items = _known("user", inputs, options), _known("item", inputs, options)
    clock = Timestamps()
    columns = []
    for role, convert, expected, required in (
        ("user", users.vocabulary, ANY_ID, True),
        ("item", items.vocabulary, ANY_ID, True),
        ("rating", floats(), NUMBER, False),
        ("timestamp", clock, TIMESTAMP, False),
    ):
        find = table.require if required else table.find
        index = find(role, options.get(role))
        if index is not None:
            columns.append(Column(role, index, convert, expected))
    values = table.read(columns)
    arrays = {column.name: v for column, v in zip(columns, values, strict=True)}
    notes = {"timestamps_truncated": clock.truncated} if clock.truncated else {}
    return _assemble(arrays, users, items, options, name, notes)


def _read_histories(
    table: Table, inputs: Inputs, options: Options, name: str
) -> Interactions:
    """Reads a table with one user per row; the position in the history is the clock."""
    users, items = _known("user", inputs, options), _known("item", inputs, options)
    user_index = table.require("user", options.get("user"))
    item_index = table.require("item", options.get("item"))
    user, histories, last = table.read(
        [
            Column("user", user_index, users.vocabulary, ANY_ID),
            Column(_HISTORY, table.names.index(_HISTORY), _split, ANY_ID),
            Column("item", item_index, identifiers, ANY_ID),
        ]
    )
    _, first = np.unique(user, return_index=True)
    if len(first) < len(user):
        row = int(np.setdiff1d(np.arange(len(user)), first)[0])
        raise table.error(
            row,
            f"user {users.vocabulary.ids[user[row]]!r} a second time",
            "one line per user, with the complete history",
            "A file with a line for every prefix is for training: use the test one",
        )
    lengths = np.fromiter(map(len, histories), np.int64, len(histories)) + 1
    flat = [*chain.from_iterable((*h, i) for h, i in zip(histories, last, strict=True))]
    starts = np.cumsum(lengths) - lengths
    arrays = {
        "user": np.repeat(user, lengths),
        "item": items.vocabulary(flat),
        "timestamp": np.arange(len(flat)) - np.repeat(starts, lengths),
    }
    return _assemble(arrays, users, items, options, name, {})


def _assemble(
    arrays: dict[str, Any],
    users: _Known,
    items: _Known,
    options: Options,
    name: str,
    notes: dict[str, int],
) -> Interactions:
    """Merges, filters and counts the interactions of parsed columns."""
    entities = {}
    for role, (catalog, vocabulary) in (("users", users), ("items", items)):
        listed, ids = len(catalog.entities.ids), vocabulary.ids
        if catalog.repeated:
            notes[f"{role}_rows_repeated"] = catalog.repeated
        if listed and len(ids) > listed:
            notes[f"{role}_without_metadata"] = len(ids) - listed
        entities[role] = extend(catalog.entities, ids)
    interactions = make_interactions(**arrays, **entities, name=name, notes=notes)
    if options.get("min_rating") is not None:
        interactions = require_rating(interactions, options["min_rating"])
    return require_history(interactions, 0)


def _known(role: str, inputs: Inputs, options: Options) -> _Known:
    """Reads the table of users or items, if there is one."""
    catalog = Catalog(Entities(ids=()))
    if f"{role}s" in inputs:
        header = options.get("header", True)
        encoding = options.get("encoding", "utf-8")
        table = open_table(inputs[f"{role}s"], encoding, header=header)
        catalog = _read_entities(table, role, options.get(role), header)
    return _Known(catalog, Vocabulary(catalog.entities.ids))


def _read_entities(table: Table, role: str, name: str | None, header: bool) -> Catalog:
    index = _id_index(table, role, name) if header else 0
    title = table.find("title") if header else 1
    if role == "user":
        title = None  # a user's name is an attribute, not a text to recommend by
    entities, repeated = read_catalog(table, id_index=index, title_index=title)
    attributes = {
        column: _join_list(column, table.types.get(column, ""), values)
        for column, values in entities.attributes.items()
    }
    return Catalog(dataclasses.replace(entities, attributes=attributes), repeated)


def _id_index(table: Table, role: str, name: str | None) -> int:
    """Finds the identifiers: named as in the interactions, a known name, or `id`."""
    if name in table.names:
        return table.names.index(name)
    if table.find(role) is None and "id" in table.names:
        return table.names.index("id")
    return table.require(role)


def _join_list(column: str, kind: str, values: Any) -> list[str]:
    """Joins the values of a RecBole sequence column by `|`.

    RecBole also calls a description a `token_seq`, so only columns named as lists are
    joined. Amazon's categories contain spaces and are separated by commas.
    """
    if kind != "token_seq" or column.lower() not in _LISTS:
        return list(values)
    separator = "," if any("," in value for value in values) else None
    return [
        "|".join(part.strip(" '\"") for part in value.split(separator))
        for value in values
    ]


def _split(values: list[str]) -> list[list[str]]:
    return [value.split() for value in values]


CSV = Source(
    name="csv",
    doc=(
        "any table of user, item, and maybe rating and timestamp, separated by "
        + ", ".join(repr(d) for d in DELIMITERS)
    ),
    find=_find_csv,
    parse=_parse_csv,
    options=("header", "delimiter", *_OPTIONS),
)
AMAZON = Source(
    name="amazon",
    doc="Amazon reviews in RecBole's atomic files (.inter, .item, .user)",
    find=_find_atomic,
    parse=_parse_atomic,
    options=_OPTIONS,
)
