"""Amazon reviews (or any data set) in RecBole's atomic files.

`.inter` comes in two forms, told apart by the header: an interaction a row
(`user_id`, `item_id`, maybe `rating` and `timestamp`), or a user a row (`user_id`,
`item_id_list`, `item_id`: the history in order, and the item after it). `.item` and
`.user` lie beside it and are optional.

References:
    Zhao et al., RecBole: Towards a Unified, Comprehensive and Efficient Framework for
    Recommendation Algorithms, CIKM 2021.
    Hou et al., Bridging Language and Items for Retrieval and Recommendation, 2024.
"""

from itertools import chain
from pathlib import Path

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources.columns import ANY_ID, Vocabulary
from fedjax_rec.data.sources.find_table import find_table
from fedjax_rec.data.sources.headers import Header, read_header
from fedjax_rec.data.sources.open_table import (
    OPTIONS,
    build,
    read_catalogs,
    read_table,
)
from fedjax_rec.data.sources.source import Inputs, Options, Source
from fedjax_rec.data.sources.tables import Column, line_of, read_columns
from fedjax_rec.storage.errors import FileError

_HISTORY = "item_id_list"


def _find(path: Path, options: Options) -> Inputs:
    sidecars = {"items": ".item", "users": ".user"}
    return find_table(path, options, (".inter",), sidecars)


def _parse(inputs: Inputs, options: Options) -> Interactions:
    file = inputs["interactions"]
    text = file.text(options.get("encoding", "utf-8"))
    header = read_header(text, file.label, "\t")
    if _HISTORY not in header.names:
        return read_table(text, header, inputs, options, SOURCE.name)
    return _parse_histories(text, header, inputs, options)


def _parse_histories(
    text: str, header: Header, inputs: Inputs, options: Options
) -> Interactions:
    """The sequence form; a history's index is its clock, for there is no other."""
    catalogs = read_catalogs(inputs, options)
    users = Vocabulary(catalogs["users"].entities.ids)
    items = Vocabulary(catalogs["items"].entities.ids)
    user, histories, last = read_columns(
        text,
        header.label,
        header.delimiter,
        [
            Column("user", header.require("user", options.get("user")), users, ANY_ID),
            Column(_HISTORY, header.names.index(_HISTORY), _split, ANY_ID),
            Column("item", header.require("item", options.get("item")), _ids, ANY_ID),
        ],
        width=len(header.names),
        skip=header.skip,
    )
    _, first = np.unique(user, return_index=True)
    if len(first) < len(user):
        row = int(np.setdiff1d(np.arange(len(user)), first)[0])
        raise FileError(
            f"user {users.ids[user[row]]!r} a second time",
            file=header.label,
            line=line_of(text, header.delimiter, row + header.skip),
            expected="one line a user, with the whole history",
            fix="A file with a line for every prefix is for training: use the test one",
        )
    lengths = np.fromiter(map(len, histories), np.int64, len(histories)) + 1
    flat = [*chain.from_iterable((*h, i) for h, i in zip(histories, last, strict=True))]
    starts = np.cumsum(lengths) - lengths
    arrays = {
        "user": np.repeat(user, lengths),
        "item": items(flat),
        "timestamp": np.arange(len(flat)) - np.repeat(starts, lengths),
    }
    return build(arrays, users, items, catalogs, options, SOURCE.name)


def _split(values: list[str]) -> list[list[str]]:
    return [value.split() for value in values]


def _ids(values: list[str]) -> list[str]:
    if "" in values:
        raise ValueError("empty identifier")
    return values


SOURCE = Source(
    name="amazon",
    doc="Amazon reviews in RecBole's atomic files (.inter, .item, .user)",
    find=_find,
    parse=_parse,
    options=("file", *OPTIONS),
)
