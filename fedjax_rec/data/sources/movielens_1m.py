"""MovieLens 1M: 6,040 users, 3,883 movies, 1,000,209 ratings of 1 to 5.

References:
    Harper and Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015.
"""

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

_FILES = ("ratings.dat", "movies.dat", "users.dat")
_ENCODINGS = ("utf-8", "latin-1")  # as in movielens_100k
# The data set's README spells out the codes; words are what a language model reads.
_AGES = {
    "1": "Under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
_OCCUPATIONS = (
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
)


def _find(path: Path, options: Options) -> Inputs:
    return open_with(path, _FILES).read_all(_FILES)


def _parse(inputs: Inputs, options: Options) -> Interactions:
    users, items = _users(inputs["users.dat"]), _items(inputs["movies.dat"])
    file = inputs["ratings.dat"]
    known_users = Vocabulary(users.ids, closed=True)
    known_items = Vocabulary(items.ids, closed=True)
    user, item, rating, timestamp = read_columns(
        file.text(*_ENCODINGS),
        file.label,
        "::",
        [
            Column("user id", 0, known_users, "an id that users.dat lists"),
            Column("movie id", 1, known_items, "an id that movies.dat lists"),
            Column("rating", 2, floats(1, 5), "a number from 1 to 5"),
            Column("timestamp", 3, Timestamps(), TIMESTAMP),
        ],
        width=4,
    )
    interactions = make_interactions(
        user=user,
        item=item,
        rating=rating,
        timestamp=timestamp,
        users=users,
        items=items,
        name=SOURCE.name,
    )
    return require_history(interactions, 0)


def _items(file: InputFile) -> Entities:
    return read_catalog(
        file.text(*_ENCODINGS),
        file.label,
        "::",
        width=3,
        id_index=0,
        title_index=1,
        attributes={"genres": 2},
        integer=True,
        id_expected=INTEGER_ID,
        unique=True,
    ).entities


def _users(file: InputFile) -> Entities:
    read = read_catalog(
        file.text(*_ENCODINGS),
        file.label,
        "::",
        width=5,
        id_index=0,
        attributes={"gender": 1, "age": 2, "occupation": 3, "zip_code": 4},
        integer=True,
        id_expected=INTEGER_ID,
        unique=True,
    ).entities
    jobs = {str(code): name for code, name in enumerate(_OCCUPATIONS)}
    attributes = dict(read.attributes)
    for column, names in (("age", _AGES), ("occupation", jobs)):
        codes = attributes[column]
        unknown = next((row for row, code in enumerate(codes) if code not in names), -1)
        if unknown >= 0:
            raise FileError(
                f"{column} {codes[unknown]!r} of user {read.ids[unknown]}",
                file=file.label,
                expected=f"one of {', '.join(names)}",
            )
        attributes[column] = [names[code] for code in codes]
    return Entities(ids=read.ids, attributes=attributes)


SOURCE = Source(
    name="movielens-1m",
    doc="MovieLens 1M (ratings.dat, movies.dat, users.dat), folder or zip",
    find=_find,
    parse=_parse,
    download=Download(
        url="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        md5="c4d9eecfca2ab87c1945afe126590906",
    ),
)
