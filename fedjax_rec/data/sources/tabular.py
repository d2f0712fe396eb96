"""Sources with columns found by name: `csv` and RecBole's atomic files (`amazon`).

The interactions may name users and items that no other table lists. These are kept,
with empty texts, and counted.

References:
    Zhao et al., RecBole: Towards a Unified, Comprehensive and Efficient Framework for
    Recommendation Algorithms, CIKM 2021.
    Hou et al., Bridging Language and Items for Retrieval and Recommendation, 2024.
"""

import dataclasses
import functools
from collections.abc import Callable
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from fedjax_rec.data.filters import require_history, require_rating
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources import convert
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.data.sources.source import (
    Inputs,
    Options,
    Source,
    extend,
    find_table,
    read_catalog,
)
from fedjax_rec.data.sources.tables import DELIMITERS, Column, Table, open_table

_OPTIONS = (
    "file", "items_file", "users_file", "user", "item", "rating", "timestamp",
    "encoding", "min_rating",
)  # fmt: skip
_HISTORY = "item_id_list"
_LISTS = ("genre", "genres", "category", "categories", "class", "tag", "tags")


class _Known(NamedTuple):
    """Users or items of a table, its repeated rows, and all identifiers so far."""

    entities: Entities
    repeated: int
    vocabulary: convert.Vocabulary


# Columns by role, and counts for the notes.
_Read = tuple[dict[str, Any], dict[str, int]]


def _parse_csv(inputs: Inputs, options: Options) -> Interactions:
    table = _open(inputs["interactions"], options, options.get("delimiter"))
    if not options.get("header", True):
        roles = ("user", "item", "rating", "timestamp")
        options = {**dict(zip(roles, table.names, strict=False)), **options}
    return _read(table, inputs, options, CSV.name)


def _parse_atomic(inputs: Inputs, options: Options) -> Interactions:
    """Parses `.inter` files.

    They have one interaction per row (`user_id`, `item_id`, optionally `rating` and
    `timestamp`), or one user per row (`user_id`, `item_id_list`, `item_id`: the history
    in order, and the item after it).
    """
    table = _open(inputs["interactions"], options, "\t")
    read = _read_histories if _HISTORY in table.names else _read_rows
    return _read(table, inputs, options, AMAZON.name, read)


def _open(file: InputFile, options: Options, delimiter: str | None = None) -> Table:
    encoding, header = options.get("encoding", "utf-8"), options.get("header", True)
    return open_table(file, encoding, delimiter, header=header)


def _read_rows(table: Table, known: dict[str, _Known], options: Options) -> _Read:
    """Reads a table with one interaction per row."""
    columns = []
    for role, converter, expected, required in (
        ("user", known["user"].vocabulary, convert.ANY_ID, True),
        ("item", known["item"].vocabulary, convert.ANY_ID, True),
        ("rating", convert.floats(), convert.NUMBER, False),
        ("timestamp", convert.timestamps, convert.TIMESTAMP, False),
    ):
        find = table.require if required else table.find
        index = find(role, options.get(role))
        if index is not None:
            columns.append(Column(role, index, converter, expected))
    values = table.read(columns)
    arrays = {column.name: v for column, v in zip(columns, values, strict=True)}
    if "timestamp" not in arrays:
        return arrays, {}
    arrays["timestamp"], notes = convert.clock(arrays["timestamp"])
    return arrays, notes


def _read_histories(table: Table, known: dict[str, _Known], options: Options) -> _Read:
    """Reads a table with one user per row; the position in the history is the clock."""
    users, items = known["user"].vocabulary, known["item"].vocabulary
    indices = [table.require(role, options.get(role)) for role in known]
    columns = [
        Column("user", indices[0], users, convert.ANY_ID),
        Column("item", indices[1], convert.identifiers, convert.ANY_ID),
        Column(_HISTORY, table.names.index(_HISTORY), _split, convert.ANY_ID),
    ]
    user, last, histories = table.read(columns)
    _, first = np.unique(user, return_index=True)
    if len(first) < len(user):
        row = int(np.setdiff1d(np.arange(len(user)), first)[0])
        raise table.error(
            row,
            f"user {users.ids[user[row]]!r} a second time",
            "one line per user, with the complete history",
            "A file with a line for every prefix is for training: use the test one",
        )
    lengths = np.fromiter(map(len, histories), np.int64, len(histories)) + 1
    flat = [*chain.from_iterable((*h, i) for h, i in zip(histories, last, strict=True))]
    starts = np.cumsum(lengths) - lengths
    arrays = {
        "user": np.repeat(user, lengths),
        "item": items(flat),
        "timestamp": np.arange(len(flat)) - np.repeat(starts, lengths),
    }
    return arrays, {}


def _read(
    table: Table,
    inputs: Inputs,
    options: Options,
    name: str,
    read: Callable[..., _Read] = _read_rows,
) -> Interactions:
    """Reads, merges, filters and counts the interactions of a table."""
    known = {role: _known(role, inputs, options) for role in ("user", "item")}
    arrays, notes = read(table, known, options)
    entities = {}
    for role, (listed, repeated, vocabulary) in known.items():
        further = len(vocabulary.ids) - len(listed.ids)
        if repeated:
            notes[f"{role}s_rows_repeated"] = repeated
        if listed.ids and further:
            notes[f"{role}s_without_metadata"] = further
        entities[f"{role}s"] = extend(listed, vocabulary.ids)
    interactions = make_interactions(**arrays, **entities, name=name, notes=notes)
    if options.get("min_rating") is not None:
        interactions = require_rating(interactions, options["min_rating"])
    return require_history(interactions, 0)


def _known(role: str, inputs: Inputs, options: Options) -> _Known:
    """Reads the table of users or items, if there is one."""
    if f"{role}s" not in inputs:
        return _Known(Entities(ids=()), 0, convert.Vocabulary())
    table = _open(inputs[f"{role}s"], options)
    index, title = 0, 1
    if options.get("header", True):
        index, title = _id_index(table, role, options.get(role)), table.find("title")
    if role == "user":
        title = None  # a user's name is an attribute, not a text to recommend by
    entities, repeated = read_catalog(table, id_index=index, title_index=title)
    attributes = {
        column: _join_list(column, table.types.get(column, ""), values)
        for column, values in entities.attributes.items()
    }
    entities = dataclasses.replace(entities, attributes=attributes)
    return _Known(entities, repeated, convert.Vocabulary(entities.ids))


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
    find=functools.partial(
        find_table, suffixes=(".csv", ".tsv", ".dat", ".txt", ".data", ".inter")
    ),
    parse=_parse_csv,
    options=("header", "delimiter", *_OPTIONS),
)
AMAZON = Source(
    name="amazon",
    doc="Amazon reviews in RecBole's atomic files (.inter, .item, .user)",
    find=functools.partial(
        find_table,
        suffixes=(".inter",),
        sidecars={"items": ".item", "users": ".user"},
    ),
    parse=_parse_atomic,
    options=_OPTIONS,
)
