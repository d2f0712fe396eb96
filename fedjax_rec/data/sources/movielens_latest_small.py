"""MovieLens latest-small: some 610 users, 9,742 movies, 100,836 ratings of 0.5 to 5.

GroupLens calls it a development set that may change, and not one to report on.

References:
    Harper and Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015.
"""

from collections import Counter
from collections.abc import Sequence
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
from fedjax_rec.data.sources.tables import Column, read_columns, rows
from fedjax_rec.storage.download import Download
from fedjax_rec.storage.errors import FileError

_FILES = ("ratings.csv", "movies.csv")
_KNOWN_MOVIE = "an id that movies.csv lists"
_NO_GENRES = "(no genres listed)"


def _find(path: Path, options: Options) -> Inputs:
    return open_with(path, _FILES).read_all(_FILES, ("tags.csv",))


def _parse(inputs: Inputs, options: Options) -> Interactions:
    items = _items(inputs)
    users = Vocabulary(integer=True)  # there is no table of users
    text = _text(inputs["ratings.csv"], ["userId", "movieId", "rating", "timestamp"])
    user, item, rating, timestamp = read_columns(
        text,
        inputs["ratings.csv"].label,
        ",",
        [
            Column("userId", 0, users, INTEGER_ID),
            Column("movieId", 1, Vocabulary(items.ids, closed=True), _KNOWN_MOVIE),
            Column("rating", 2, floats(0.5, 5), "a number from 0.5 to 5"),
            Column("timestamp", 3, Timestamps(), TIMESTAMP),
        ],
        width=4,
        skip=1,
    )
    interactions = make_interactions(
        user=user,
        item=item,
        rating=rating,
        timestamp=timestamp,
        users=Entities(ids=users.ids),
        items=items,
        name=SOURCE.name,
    )
    return require_history(interactions, 0)


def _items(inputs: Inputs) -> Entities:
    file = inputs["movies.csv"]
    read = read_catalog(
        _text(file, ["movieId", "title", "genres"]),
        file.label,
        ",",
        width=3,
        skip=1,
        id_index=0,
        title_index=1,
        attributes={"genres": 2},
        integer=True,
        id_expected=INTEGER_ID,
        unique=True,
    ).entities
    genres = ["" if g == _NO_GENRES else g for g in read.attributes["genres"]]
    attributes = {"genres": genres}
    if "tags.csv" in inputs:
        attributes["tags"] = _tags(inputs["tags.csv"], read.ids)
    return Entities(ids=read.ids, titles=read.titles, attributes=attributes)


def _tags(file: InputFile, ids: Sequence[str]) -> list[str]:
    """Each movie's different tags, first those that most users gave it.

    Of equal ones the first in the file leads. Spellings that differ in case alone are
    counted as one tag, and all of them kept.
    """
    item, tag = read_columns(
        _text(file, ["userId", "movieId", "tag", "timestamp"]),
        file.label,
        ",",
        [
            Column("movieId", 1, Vocabulary(ids, closed=True), _KNOWN_MOVIE),
            Column("tag", 2, list, "a text"),
        ],
        width=4,
        skip=1,
        allow_no_rows=True,
    )
    tags: list[dict[str, None]] = [{} for _ in ids]  # a dict is an ordered set
    counts: list[Counter[str]] = [Counter() for _ in ids]
    for index, name in zip(item, tag, strict=True):
        name = name.replace("|", "/")  # `|` is what joins them
        tags[index][name] = None
        counts[index][name.casefold()] += 1
    return [
        "|".join(sorted(names, key=lambda name: -count[name.casefold()]))
        for names, count in zip(tags, counts, strict=True)
    ]


def _text(file: InputFile, header: list[str]) -> str:
    """The file's text, once its header is what it should be."""
    text = file.text("utf-8")
    found = next(rows(text, ","))
    if found != header:
        raise FileError(
            f"the header {','.join(found)}",
            file=file.label,
            line=1,
            expected=",".join(header),
            fix="For files of your own, use the source 'csv'",
        )
    return text


SOURCE = Source(
    name="movielens-latest-small",
    doc="MovieLens latest-small (ratings.csv, movies.csv, tags.csv), folder or zip",
    find=_find,
    parse=_parse,
    download=Download(
        url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        md5_url="https://files.grouplens.org/datasets/movielens/ml-latest-small.zip.md5",
    ),
)
