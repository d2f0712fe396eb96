"""Free texts on items, written by hand or by a language model, read from a file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.data.sources.columns import ANY_ID
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.data.sources.headers import Header, read_header
from fedjax_rec.data.sources.tables import Column, line_of, read_columns
from fedjax_rec.storage.errors import FileError

_TEXT = ("text", "note", "notes", "description", "summary")
# Pairs of id and text, and the line on which one of them begins.
_Read = tuple[list[tuple[str, str]], Callable[[int], int]]
_JSON_ID = ("item", "item_id", "itemId", "id")


def load_notes(path: str | Path) -> dict[str, str]:
    """Raw item id to text, from a CSV (or TSV) with a header, or from JSON lines.

    A CSV has a column for the item (`item`, `item_id`, `movieId`, `id`, ...) and one
    for the text (`text`, `note`, `description`, `summary`; of two columns, the other).
    A line of a `.jsonl` file is an object such as `{"item": "7", "text": "..."}`. Line
    breaks and runs of spaces inside a text become one space.

    Args:
        path: the file, in UTF-8; its suffix `.jsonl` or `.ndjson` tells JSON lines.

    Raises:
        FileError: with the file and the line: what is there is not that.
    """
    path = Path(path).expanduser()
    try:
        file = InputFile(str(path), path.read_bytes())
    except OSError as error:
        raise FileError(f"cannot be read ({error.strerror})", file=path) from error
    json_lines = path.suffix.lower() in (".jsonl", ".ndjson")
    pairs, line = _json_lines(file) if json_lines else _table(file)
    notes: dict[str, str] = {}
    for row, (raw, text) in enumerate(pairs):
        if raw in notes:
            raise FileError(
                f"item {raw!r} a second time",
                file=file.label,
                line=line(row),
                expected="one text an item",
            )
        notes[raw] = " ".join(text.split())
    return notes


def _table(file: InputFile) -> _Read:
    text = file.text("utf-8-sig")
    header = read_header(text, file.label)
    item = header.names.index("id") if "id" in header.names else header.require("item")
    columns = [
        Column("item", item, _ids, ANY_ID),
        Column("text", _text_place(header, item), list, "a text"),
    ]
    raw, texts = read_columns(
        text,
        file.label,
        header.delimiter,
        columns,
        width=len(header.names),
        skip=header.skip,
    )
    pairs = list(zip(raw, texts, strict=True))
    return pairs, lambda row: line_of(text, header.delimiter, row + header.skip)


def _ids(values: list[str]) -> list[str]:
    if "" in values:
        raise ValueError("empty identifier")
    return values


def _text_place(header: Header, item: int) -> int:
    known = [i for i, name in enumerate(header.names) if name.lower() in _TEXT]
    if not known and len(header.names) == 2:
        known = [1 - item]
    if not known:
        raise FileError(
            f"the columns {', '.join(header.names)}",
            file=header.label,
            line=1,
            expected=f"one of {', '.join(_TEXT)} for the text",
            fix="Rename the column",
        )
    return known[0]


def _json_lines(file: InputFile) -> _Read:
    pairs, lines = [], []
    # str.splitlines would also break inside a JSON string, at \u2028 and others.
    for line, text in enumerate(file.text("utf-8-sig").split("\n"), 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileError(
                f"no JSON ({error})",
                file=file.label,
                line=line,
                expected='one object a line, such as {"item": "7", "text": "..."}',
            ) from error
        if not isinstance(entry, dict):
            raise _lacks(entry, "an object", file, line)
        raw, note = _first(entry, _JSON_ID), _first(entry, _TEXT)
        # bool is an int to Python, and no identifier.
        if isinstance(raw, bool) or not isinstance(raw, str | int) or raw == "":
            raise _lacks(entry, f"an id under {' or '.join(_JSON_ID)}", file, line)
        if not isinstance(note, str):
            raise _lacks(entry, f"a text under {' or '.join(_TEXT)}", file, line)
        pairs.append((str(raw), note))
        lines.append(line)
    return pairs, lines.__getitem__


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _lacks(entry: Any, expected: str, file: InputFile, line: int) -> FileError:
    found = json.dumps(entry)
    shown = found if len(found) <= 60 else found[:57] + "..."
    return FileError(shown, file=file.label, line=line, expected=expected)
