"""MovieLens 100K: 943 users, 1,682 movies, 100,000 ratings of 1 to 5.

References:
    Harper and Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015.
"""

import itertools
import re
from pathlib import Path

from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources.catalog import read_catalog
from fedjax_rec.data.sources.columns import (
    INTEGER_ID,
    TIMESTAMP,
    Timestamps,
    Vocabulary,
    floats,
)
from fedjax_rec.data.sources.files import InputFile, open_with
from fedjax_rec.data.sources.history import require_history
from fedjax_rec.data.sources.source import Inputs, Options, Source
from fedjax_rec.data.sources.tables import Column, read_columns
from fedjax_rec.storage.download import Download
from fedjax_rec.storage.errors import FileError

_FILES = ("u.data", "u.item", "u.user", "u.genre")
# The stock files are Latin-1, copies in the wild UTF-8. Accented Latin-1 text is next
# to never valid UTF-8, so trying UTF-8 first tells them apart.
_ENCODINGS = ("utf-8", "latin-1")
_BEFORE_GENRES = ("id", "title", "release_date", "video_release_date", "imdb_url")


def _find(path: Path, options: Options) -> Inputs:
    return open_with(path, _FILES).read_all(_FILES, ("u.info",))


def _parse(inputs: Inputs, options: Options) -> Interactions:
    items = _items(inputs["u.item"], _genres(inputs["u.genre"]))
    file = inputs["u.user"]
    users = read_catalog(
        file.text(*_ENCODINGS),
        file.label,
        "|",
        width=5,
        id_index=0,
        attributes={"age": 1, "gender": 2, "occupation": 3, "zip_code": 4},
        integer=True,
        id_expected=INTEGER_ID,
        unique=True,
    )
    file = inputs["u.data"]
    known_users = Vocabulary(users.entities.ids, closed=True)
    known_items = Vocabulary(items.ids, closed=True)
    user, item, rating, timestamp = read_columns(
        file.text(*_ENCODINGS),
        file.label,
        "\t",
        [
            Column("user id", 0, known_users, "an id that u.user lists"),
            Column("item id", 1, known_items, "an id that u.item lists"),
            Column("rating", 2, floats(1, 5), "a number from 1 to 5"),
            Column("timestamp", 3, Timestamps(), TIMESTAMP),
        ],
        width=4,
    )
    _check_info(inputs, ratings=len(user))
    interactions = make_interactions(
        user=user,
        item=item,
        rating=rating,
        timestamp=timestamp,
        users=users.entities,
        items=items,
        name=SOURCE.name,
    )
    return require_history(interactions, 0)


def _genres(file: InputFile) -> list[str]:
    """Genre names in the order of the flags in `u.item`."""
    text = file.text(*_ENCODINGS)
    return read_columns(
        text, file.label, "|", [Column("genre", 0, list, "a name")], width=2
    )[0]


def _items(file: InputFile, genres: list[str]) -> Entities:
    text, first = file.text(*_ENCODINGS), len(_BEFORE_GENRES)
    width = first + len(genres)
    read = read_catalog(
        text,
        file.label,
        "|",
        width=width,
        id_index=0,
        title_index=1,
        attributes={"release_date": 2},
        integer=True,
        id_expected=INTEGER_ID,
        unique=True,
    ).entities
    columns = [
        Column(f"flag of genre {genre}", first + i, _flags, "0 or 1")
        for i, genre in enumerate(genres)
    ]
    flags = read_columns(text, file.label, "|", columns, width=width)
    named = [
        "|".join(itertools.compress(genres, row)) for row in zip(*flags, strict=True)
    ]
    return Entities(
        ids=read.ids,
        titles=read.titles,
        attributes={"genres": named, **read.attributes},
    )


def _flags(values: list[str]) -> list[bool]:
    if not {"0", "1"}.issuperset(values):
        raise ValueError("no flag")
    return [value == "1" for value in values]


def _check_info(inputs: Inputs, ratings: int) -> None:
    """Holds the number of ratings against `u.info`, which tells a file cut short."""
    if "u.info" not in inputs:
        return
    promised = re.search(r"(\d+) ratings", inputs["u.info"].text(*_ENCODINGS))
    if promised and int(promised[1]) != ratings:
        raise FileError(
            f"{ratings} ratings",
            file=inputs["u.data"].label,
            expected=f"{promised[1]}, as u.info says",
            fix="The file is cut short or mixed up: copy it again",
        )


SOURCE = Source(
    name="movielens-100k",
    doc="MovieLens 100K (u.data, u.item, u.user, u.genre), folder or zip",
    find=_find,
    parse=_parse,
    download=Download(
        url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
        md5="0e33842e24a9c977be4e0107933c0723",
    ),
)
