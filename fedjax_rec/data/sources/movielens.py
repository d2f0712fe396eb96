"""MovieLens 100K, 1M and latest-small, in their original files.

GroupLens calls latest-small a development set that may change and is not to be
reported on.

References:
    Harper and Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from fedjax_rec.data.filters import require_history
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.sources import convert
from fedjax_rec.data.sources.files import InputFile, open_folder
from fedjax_rec.data.sources.source import Inputs, Options, Source, read_catalog
from fedjax_rec.data.sources.tables import Column, Table, open_table
from fedjax_rec.storage.download import Download

# The original files are Latin-1, many copies UTF-8. Accented Latin-1 text is hardly
# ever valid UTF-8, so trying UTF-8 first distinguishes them.
_ENCODINGS = ("utf-8", "latin-1")
_RATINGS = ("user", "item", "rating", "timestamp")

# Codes in the README of MovieLens 1M. A language model reads the words.
_AGES = {
    "1": "Under 18", "18": "18-24", "25": "25-34", "35": "35-44", "45": "45-49",
    "50": "50-55", "56": "56+",
}  # fmt: skip
_OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student",
    "customer service", "doctor/health care", "executive/managerial", "farmer",
    "homemaker", "K-12 student", "lawyer", "programmer", "retired", "sales/marketing",
    "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip


def _parse_100k(inputs: Inputs, options: Options) -> Interactions:
    genres = _table(inputs["u.genre"], "|", "genre", "index")
    names = genres.read([Column("genre", 0, list, "a name")])[0]
    items = _items_100k(inputs["u.item"], names)
    columns = ("id", "age", "gender", "occupation", "zip_code")
    users, _ = read_catalog(_table(inputs["u.user"], "|", *columns), strict=True)
    table = _table(inputs["u.data"], "\t", *_RATINGS)
    ratings = _read_ratings(table, users, items, ("u.user", "u.item"), ML_100K.name)
    if "u.info" in inputs:
        total = len(ratings) + ratings.notes["duplicates_merged"]
        _check_info(inputs["u.info"], inputs["u.data"], total)
    return ratings


def _items_100k(file: InputFile, genres: list[str]) -> Entities:
    before = ("id", "title", "release_date", "video_release_date", "imdb_url")
    table = _table(file, "|", *before, *genres)
    items, _ = read_catalog(table, title_index=1, strict=True)
    flags = table.read(
        [
            Column(f"flag of genre {genre}", index, _flags, "0 or 1")
            for index, genre in enumerate(genres, len(before))
        ]
    )
    rows = zip(*flags, strict=True)
    names = ["|".join(itertools.compress(genres, row)) for row in rows]
    dates = items.attributes["release_date"]
    attributes = {"genres": names, "release_date": dates}
    return dataclasses.replace(items, attributes=attributes)


def _flags(values: list[str]) -> list[bool]:
    if not {"0", "1"}.issuperset(values):
        raise ValueError("no flag")
    return [value == "1" for value in values]


def _check_info(info: InputFile, data: InputFile, ratings: int) -> None:
    """Compares the number of ratings with `u.info`, which reveals a truncated file."""
    expected = re.search(r"(\d+) ratings", info.text(*_ENCODINGS))
    if expected and int(expected[1]) != ratings:
        fix = "The file is incomplete or from another version: copy it again"
        promised = f"{expected[1]}, as u.info says"
        raise data.error(f"{ratings} ratings", promised, fix)


def _parse_1m(inputs: Inputs, options: Options) -> Interactions:
    users = _users_1m(inputs["users.dat"])
    movies = _table(inputs["movies.dat"], "::", "id", "title", "genres")
    items, _ = read_catalog(movies, title_index=1, strict=True)
    table = _table(inputs["ratings.dat"], "::", *_RATINGS)
    return _read_ratings(table, users, items, ("users.dat", "movies.dat"), ML_1M.name)


def _users_1m(file: InputFile) -> Entities:
    table = _table(file, "::", "id", "gender", "age", "occupation", "zip_code")
    users, _ = read_catalog(table, strict=True)
    jobs = {str(code): name for code, name in enumerate(_OCCUPATIONS)}
    attributes = dict(users.attributes)
    for column, names in (("age", _AGES), ("occupation", jobs)):
        codes = attributes[column]
        unknown = next((row for row, code in enumerate(codes) if code not in names), -1)
        if unknown >= 0:
            message = f"{column} {codes[unknown]!r} of user {users.ids[unknown]}"
            raise file.error(message, f"one of {', '.join(names)}")
        attributes[column] = [names[code] for code in codes]
    return Entities(ids=users.ids, attributes=attributes)


def _parse_latest(inputs: Inputs, options: Options) -> Interactions:
    movies = _open(inputs["movies.csv"], "movieId", "title", "genres")
    items, _ = read_catalog(movies, title_index=1, strict=True)
    genres = items.attributes["genres"]
    attributes = {"genres": ["" if g == "(no genres listed)" else g for g in genres]}
    if "tags.csv" in inputs:
        attributes["tags"] = _tags(inputs["tags.csv"], items.ids)
    items = dataclasses.replace(items, attributes=attributes)
    table = _open(inputs["ratings.csv"], "userId", "movieId", "rating", "timestamp")
    lists = ("", "movies.csv")
    return _read_ratings(table, None, items, lists, ML_LATEST_SMALL.name, low=0.5)


def _tags(file: InputFile, ids: Sequence[str]) -> list[str]:
    """Joins each movie's distinct tags, those given by the most users first.

    Equally frequent ones keep the order of the file. Spellings that differ only in case
    are counted as one tag, and all of them are kept.
    """
    known = convert.Vocabulary(ids, closed=True)
    item, tag = _open(file, "userId", "movieId", "tag", "timestamp").read(
        [
            Column("movieId", 1, known, "an id that movies.csv lists"),
            Column("tag", 2, list, "a text"),
        ],
        allow_no_rows=True,
    )
    tags: list[dict[str, None]] = [{} for _ in ids]  # a dict is an ordered set
    counts: list[Counter[str]] = [Counter() for _ in ids]
    for index, name in zip(item, tag, strict=True):
        name = name.replace("|", "/")  # `|` joins them
        tags[index][name] = None
        counts[index][name.casefold()] += 1
    return [
        "|".join(sorted(names, key=lambda name: -count[name.casefold()]))
        for names, count in zip(tags, counts, strict=True)
    ]


def _open(file: InputFile, *names: str) -> Table:
    """Opens a CSV file that must have these columns."""
    table = open_table(file, delimiter=",")
    if table.names != names:
        header, fix = ",".join(table.names), "For your own files, use the source 'csv'"
        raise file.error(f"the header {header}", ",".join(names), fix, line=1)
    return table


def _table(file: InputFile, delimiter: str, *names: str) -> Table:
    return Table(file.text(*_ENCODINGS), file.label, delimiter, names)


def _read_ratings(
    table: Table,
    users: Entities | None,
    items: Entities,
    lists: tuple[str, str],
    name: str,
    low: float = 1,
) -> Interactions:
    """Reads the table of ratings, which has the same columns in all versions.

    Args:
        table: The table.
        users: The known users, or `None` if no file lists them.
        items: The known items.
        lists: Names of the files that list the users and the items.
        name: Name of the data set.
        low: Lowest rating.
    """
    known_items = convert.Vocabulary(items.ids, closed=True)
    if users is None:
        known_users, user_expected = (
            convert.Vocabulary(integer=True),
            convert.INTEGER_ID,
        )
    else:
        known_users = convert.Vocabulary(users.ids, closed=True)
        user_expected = f"an id that {lists[0]} lists"
    columns = [
        Column("user id", 0, known_users, user_expected),
        Column("item id", 1, known_items, f"an id that {lists[1]} lists"),
        Column("rating", 2, convert.floats(low, 5), f"a number from {low} to 5"),
        Column("timestamp", 3, convert.timestamps, convert.TIMESTAMP),
    ]
    arrays = dict(zip(_RATINGS, table.read(columns), strict=True))
    arrays["timestamp"], notes = convert.clock(arrays["timestamp"])
    users = users or Entities(ids=known_users.ids)
    merged = make_interactions(
        **arrays, users=users, items=items, name=name, notes=notes
    )
    return require_history(merged, 0)


def _source(
    name: str,
    files: Sequence[str],
    parse: Callable[[Inputs, Options], Interactions],
    download: Download,
    optional: Sequence[str] = (),
) -> Source:
    def find(path: Path, options: Options) -> Inputs:
        required = set(files)
        folder = open_folder(path, ", ".join(files), lambda n: required <= set(n))
        present = [name for name in optional if name in folder.names]
        return {name: folder.read(name) for name in (*files, *present)}

    doc = f"{name} ({', '.join([*files, *optional])}), folder or zip"
    return Source(name=name, doc=doc, find=find, parse=parse, download=download)


_URL = "https://files.grouplens.org/datasets/movielens"
ML_100K = _source(
    "movielens-100k",
    ("u.data", "u.item", "u.user", "u.genre"),
    _parse_100k,
    Download(url=f"{_URL}/ml-100k.zip", md5="0e33842e24a9c977be4e0107933c0723"),
    ("u.info",),
)
ML_1M = _source(
    "movielens-1m",
    ("ratings.dat", "movies.dat", "users.dat"),
    _parse_1m,
    Download(url=f"{_URL}/ml-1m.zip", md5="c4d9eecfca2ab87c1945afe126590906"),
)
ML_LATEST_SMALL = _source(
    "movielens-latest-small",
    ("ratings.csv", "movies.csv"),
    _parse_latest,
    Download(
        url=f"{_URL}/ml-latest-small.zip", md5_url=f"{_URL}/ml-latest-small.zip.md5"
    ),
    ("tags.csv",),
)
