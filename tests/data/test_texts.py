"""Templates over items, by hand and on the real files if present; notes from files."""

import os
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.sources import SOURCES
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.data.texts import (
    DEFAULT_TEMPLATES,
    default_template,
    item_texts,
    load_notes,
)
from fedjax_rec.storage.errors import FileError

ROOT = Path(
    os.environ.get("FEDJAX_REC_DATA")
    or Path(__file__).resolve().parents[3] / "shared" / "data"
)
FILMS = Entities(
    ids=["7", "9", "11"],
    titles=["One [cut] {x} (1990)", " Two", ""],
    attributes={
        "genres": ["Comedy|Drama", "(no genres listed)", "unknown"],
        "tags": ["Fun|fun| |dark|slow", "", "odd"],
    },
)


def source(name, folder):
    path = ROOT / folder
    if not path.is_dir():
        pytest.skip(f"no {path}: set FEDJAX_REC_DATA to the folder of the data sets")
    return SOURCES[name].read(path)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{title}", ["One [cut] {x} (1990)", "Two", ""]),
        (
            "{title}[. Genres: {genres}]",
            ["One [cut] {x} (1990). Genres: Comedy, Drama", "Two", ""],
        ),
        ("[{tags}]", ["Fun, dark, slow", "", "odd"]),
        ("{tags:2}", ["Fun, dark", "", "odd"]),
        # A part needs all of its fields; text outside brackets always stays.
        ("[{genres} and {tags:1}]!", ["Comedy, Drama and Fun!", "!", "!"]),
        ("[[{{{tags:1}}}]]", ["[{Fun}]", "[{}]", "[{odd}]"]),
        ("[a][ [[{tags:1}]] ]b", ["a [Fun] b", "ab", "a [odd] b"]),
        ("x[. {note}]", ["x", "x", "x"]),
        ("", ["", "", ""]),
    ],
)
def test_templates_by_hand(template, expected):
    assert item_texts(FILMS, template) == expected


def test_notes_by_raw_id():
    notes = {"9": "A | B", "7": "", "12": "of no item here"}
    found = item_texts(FILMS, "{title}[: {note}]", notes)
    assert found == ["One [cut] {x} (1990)", "Two: A | B", ""]
    with pytest.raises(ValueError, match=r"none of the 1 notes.*'i7'.*'7'"):
        item_texts(FILMS, "{note}", {"i7": "no such id"})
    assert item_texts(FILMS, "{note}", {}) == ["", "", ""]


def test_users_as_texts():
    users = Entities(ids=["1"], attributes={"job": ["pilot"], "note": ["own column"]})
    assert item_texts(users, "A {job}[, {note}]") == ["A pilot, own column"]
    with pytest.raises(ValueError, match="'title'; expected some of: job, note"):
        item_texts(users, "{title}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{genre}", "'genre'; expected some of: title, genres, tags, note"),
        ("{}", "the field ''"),
        ("[a[b]]", r"'\[' too many"),
        ("a]", r"'\]' too many"),
        ("[a", r"leaves a '\[' open"),
        ("{title", "expected '}'"),
        ("{tags:x}", "'tags' takes a number"),
        ("{tags:0}", "'tags' takes a number"),
        ("{title!r}", "'title' takes a number"),
    ],
)
def test_what_is_wrong_with_a_template(template, message):
    with pytest.raises(ValueError, match=message):
        item_texts(FILMS, template)


def some(items, name="mine"):
    zero = np.zeros(1, np.int64)
    users = Entities(ids=["u"])
    return make_interactions(user=zero, item=zero, users=users, items=items, name=name)


def test_the_default_template():
    assert default_template(some(FILMS)) == "{title}[. Genres: {genres}]"
    bare = Entities(ids=["1"], titles=["A"], attributes={"price": ["3"]})
    assert default_template(some(bare)) == "{title}"
    assert default_template(some(bare, "amazon")) == "{title}"
    with pytest.raises(ValueError, match=r"no titles; .* attributes: price"):
        default_template(some(Entities(ids=["1"], attributes={"price": ["3"]})))


def test_default_templates_are_for_sources_and_without_tags():
    assert DEFAULT_TEMPLATES.keys() <= SOURCES.keys() | {"synthetic"}
    assert not any("tags" in template for template in DEFAULT_TEMPLATES.values())


def test_synthetic_items_as_texts():
    data = synthetic(0, num_users=20, num_items=30, num_interactions=200)
    texts = item_texts(data.items, default_template(data))
    assert texts[0] == "Prank of the Quiet Zoo. Genre: Comedy"
    assert len(texts) == 30
    assert not any("|" in text or "{" in text for text in texts)


def test_movielens_100k():
    data = source("movielens-100k", "ml-100k")
    texts = item_texts(data.items, default_template(data))
    assert texts[0] == "Toy Story (1995). Genres: Animation, Children's, Comedy"
    # u.item has two films without a genre, the first of them without a title, too.
    assert sum("Genres" not in text for text in texts) == 2
    assert texts[266] == "unknown"


def test_movielens_latest_small():
    data = source("movielens-latest-small", "ml-latest-small")
    texts = item_texts(data.items, default_template(data))
    genres = data.items.attributes["genres"]
    assert sum("Genres" in text for text in texts) == sum(map(bool, genres))
    tags = item_texts(data.items, "{tags:10}")
    assert max(text.count(", ") for text in tags) >= 9
    assert sum(map(bool, tags)) == sum(map(bool, data.items.attributes["tags"]))


def test_amazon_games():
    data = source("amazon", "amazon-games")
    texts = item_texts(data.items, default_template(data))
    assert texts == [title.strip() for title in data.items.titles or ()]


def written(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("n.csv", 'item,text\n7,"One, ""two""\n three"\nb é,x\n'),
        ("n.csv", '\ufeffmovieId,stars,note\n7,5,"One, ""two""\n\n three"\nb é,1,x\n'),
        ("n.tsv", 'id\tanything\n7\tOne, "two"  three\nb é\tx\n'),
        (
            "n.jsonl",
            '{"item": 7, "text": "One, \\"two\\"\\n three"}\n\n'
            '{"item": "b é", "text": "x"}',
        ),
        (
            "n.ndjson",
            '{"id": "7", "stars": 3, "summary": "One, \\"two\\"\u2028three"}\r\n'
            '{"item_id": "b é", "note": "x"}\r\n',
        ),
    ],
)
def test_forms_of_notes(tmp_path, name, text):
    notes = load_notes(written(tmp_path, name, text))
    assert notes == {"7": 'One, "two" three', "b é": "x"}


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("n.csv", 'item,text\n1,"a\nb"\n1,c\n', 4, "'1' a second time"),
        ("n.csv", "item,text\n1,a\n,b\n", 3, "expected an identifier"),
        ("n.csv", "item,text\n1,a\n2,b,c\n", 3, "3 fields"),
        ("n.csv", "item,stars,price\n1,2,3\n", 1, "one of text, note"),
        ("n.csv", "what,text\n1,a\n", 1, "one for the item"),
        ("n.csv", "", None, "empty file"),
        ("n.jsonl", '{"item": 1, "text": "a"}\n\n{"item": "1", "text": "b"}', 3, "1'"),
        ("n.jsonl", '{"item": 1, "text": "a"}\n{', 2, "no JSON"),
        ("n.jsonl", "[1]", 1, r"found \[1\]; expected an object"),
        ("n.jsonl", '{"text": "a"}', 1, "expected an id under item or"),
        ("n.jsonl", '{"item": true, "text": "a"}', 1, "expected an id"),
        ("n.jsonl", '{"item": 1, "text": 2}', 1, "expected a text under text or"),
        ("n.jsonl", '{"item": 1, "text": null, "x": "%s"}' % ("y" * 99), 1, r"\.\.\."),
    ],
)
def test_errors_in_notes_name_their_line(tmp_path, name, text, line, message):
    with pytest.raises(FileError, match=message) as caught:
        load_notes(written(tmp_path, name, text))
    assert caught.value.file == str(tmp_path / name)
    assert caught.value.line == line


def test_a_missing_file_of_notes(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        load_notes(tmp_path / "none.csv")
