"""Notes from files: the forms that are read, and the line of what is wrong."""

import pytest

from fedjax_rec.data.notes import load_notes
from fedjax_rec.storage.errors import FileError


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
def test_forms_that_are_read(tmp_path, name, text):
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
def test_errors_name_the_file_and_the_line(tmp_path, name, text, line, message):
    with pytest.raises(FileError, match=message) as caught:
        load_notes(written(tmp_path, name, text))
    assert caught.value.file == str(tmp_path / name)
    assert caught.value.line == line


def test_a_missing_file(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        load_notes(tmp_path / "none.csv")
