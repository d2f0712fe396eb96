"""The real files, where they are at hand, against counts from their own papers."""

import csv
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.data.prepare import load
from fedjax_rec.data.sources import SOURCES

ROOT = Path(
    os.environ.get("FEDJAX_REC_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "data"
)


def folder(name):
    path = ROOT / name
    if not path.is_dir():
        pytest.skip(f"no {path}: set FEDJAX_REC_DATA to the folder of the data sets")
    return path


def rows_by_raw_id(interactions):
    """A multiset of (user, item, rating, timestamp, position)."""
    return Counter(
        zip(
            (interactions.users.ids[u] for u in interactions.user),
            (interactions.items.ids[i] for i in interactions.item),
            interactions.rating.tolist(),
            interactions.timestamp.tolist(),
            interactions.position.tolist(),
            strict=True,
        )
    )


def test_movielens_100k(tmp_path):
    path = folder("ml-100k")
    read = load("movielens-100k", dir=path, cache=tmp_path)
    # u.info: 943 users, 1682 items, 100000 ratings; the README: at least 20 a user.
    assert (read.num_users, read.num_items, len(read)) == (943, 1682, 100_000)
    assert np.bincount(read.user).min() == 20
    assert read.notes["duplicates_merged"] == 0
    lines = (path / "u.data").read_text("ascii").splitlines()
    expected = Counter()
    for position, line in enumerate(lines):
        user, item, rating, timestamp = line.split("\t")
        expected[user, item, float(rating), int(timestamp), position] += 1
    assert rows_by_raw_id(read) == expected
    # The ids are 1 to n, so the index is the id less one.
    assert list(read.users.ids) == [str(n) for n in range(1, 944)]
    assert list(read.items.ids) == [str(n) for n in range(1, 1683)]
    jobs = set((path / "u.occupation").read_text("ascii").split())
    assert set(read.users.attributes["occupation"]) == jobs
    titles = [
        line.split("|")[1]
        for line in (path / "u.item").read_text("latin-1").splitlines()
    ]
    assert list(read.items.titles or ()) == titles
    # Every film has a genre, and Toy Story is the well-known three.
    assert all(read.items.attributes["genres"])
    assert read.items.attributes["genres"][0] == "Animation|Children's|Comedy"


def test_movielens_latest_small(tmp_path):
    path = folder("ml-latest-small")
    read = load("movielens-latest-small", dir=path, cache=tmp_path)
    # Its README: 100836 ratings and 3683 tags across 9742 movies by 610 users.
    assert (read.num_users, read.num_items, len(read)) == (610, 9742, 100_836)
    with (path / "ratings.csv").open(encoding="utf-8", newline="") as file:
        expected = Counter(
            (r["userId"], r["movieId"], float(r["rating"]), int(r["timestamp"]), n)
            for n, r in enumerate(csv.DictReader(file))
        )
    assert rows_by_raw_id(read) == expected
    with (path / "tags.csv").open(encoding="utf-8", newline="") as file:
        pairs = [(row["movieId"], row["tag"]) for row in csv.DictReader(file)]
    assert len(pairs) == 3683
    joined = zip(read.items.ids, read.items.attributes["tags"], strict=True)
    assert {(i, t) for i, text in joined for t in text.split("|") if t} == set(pairs)
    listed = [g for g in read.items.attributes["genres"] if not g]
    assert len(listed) == (path / "movies.csv").read_text("utf-8").count(
        "(no genres listed)"
    )


def test_amazon_games():
    path = folder("amazon-games")
    read = SOURCES["amazon"].read(path)
    lines = (path / "Games-6k.test.inter").read_text("utf-8").splitlines()[1:]
    histories = {}
    for line in lines:
        user, history, last = line.split("\t")
        histories[user] = [*history.split(), last]
    titles = dict(
        line.split("\t")
        for line in (path / "Games-6k.item").read_text("utf-8").splitlines()[1:]
    )
    assert read.num_users == len(lines) == len(histories)
    assert list(read.items.ids) == list(titles)
    assert list(read.items.titles or ()) == list(titles.values())
    total = sum(len(history) for history in histories.values())
    assert len(read) + read.notes["duplicates_merged"] == total
    offsets = read.offsets()
    for user in range(0, read.num_users, 97):
        rows = slice(offsets[user], offsets[user + 1])
        found = [read.items.ids[i] for i in read.item[rows]]
        history = histories[read.users.ids[user]]
        # Of a repeated item the last counts: order by where each occurs last.
        assert found == list(dict.fromkeys(reversed(history)))[::-1]
