"""Free texts about items, written by people or by a language model, from a file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.data.sources.columns import ANY_ID, Column, identifiers
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.data.sources.tables import open_table
from fedjax_rec.storage.errors import FileError

_TEXT = ("text", "note", "notes", "description", "summary")
_JSON_ID = ("item", "item_id", "itemId", "id")

# Pairs of id and text, and a function from the index of a pair to its line.
_Read = tuple[list[tuple[str, str]], Callable[[int], int]]


def load_notes(path: str | Path) -> dict[str, str]:
    """Reads raw item ids and texts from a CSV (or TSV) with a header, or JSON lines.

    A CSV has a column for the item (`item`, `item_id`, `movieId`, `id`, ...) and one
    for the text (`text`, `note`, `description`, `summary`; with two columns, the other
    one). A line of a `.jsonl` file is an object such as `{"item": "7", "text": "..."}`.
    Line breaks and runs of spaces inside a text become one space.

    Args:
        path: The file, in UTF-8; the suffix `.jsonl` or `.ndjson` means JSON lines.

    Raises:
        FileError: The content is malformed; the message names the line.
    """
    file = InputFile.read(path)
    json_lines = file.label.lower().endswith((".jsonl", ".ndjson"))
    pairs, line = _json_lines(file) if json_lines else _table(file)
    notes: dict[str, str] = {}
    for row, (item, text) in enumerate(pairs):
        if item in notes:
            raise FileError(
                f"item {item!r} a second time",
                file=file.label,
                line=line(row),
                expected="one text per item",
            )
        notes[item] = " ".join(text.split())
    return notes


def _table(file: InputFile) -> _Read:
    table = open_table(file)
    names = table.names
    item = names.index("id") if "id" in names else table.require("item")
    texts = [index for index, name in enumerate(names) if name.lower() in _TEXT]
    if not texts and len(names) == 2:
        texts = [1 - item]
    if not texts:
        table.refuse_header(
            f"one of {', '.join(_TEXT)} for the text", "Rename the column"
        )
    columns = [
        Column("item", item, identifiers, ANY_ID),
        Column("text", texts[0], list, "a text"),
    ]
    return list(zip(*table.read(columns), strict=True)), table.line


def _json_lines(file: InputFile) -> _Read:
    pairs, lines = [], []
    # str.splitlines would also split inside a JSON string, at \u2028 and others.
    for line, text in enumerate(file.text().split("\n"), 1):
        if not text.strip():
            continue
        try:
            entry = json.loads(text)
        except json.JSONDecodeError as error:
            raise FileError(
                f"no JSON ({error})",
                file=file.label,
                line=line,
                expected='one object per line, such as {"item": "7", "text": "..."}',
            ) from error
        if not isinstance(entry, dict):
            raise _lacks(entry, "an object", file, line)
        item, note = _first(entry, _JSON_ID), _first(entry, _TEXT)
        # bool is an int in Python, but not an identifier.
        if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
            raise _lacks(entry, f"an id under {' or '.join(_JSON_ID)}", file, line)
        if not isinstance(note, str):
            raise _lacks(entry, f"a text under {' or '.join(_TEXT)}", file, line)
        pairs.append((str(item), note))
        lines.append(line)
    return pairs, lines.__getitem__


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _lacks(entry: Any, expected: str, file: InputFile, line: int) -> FileError:
    text = json.dumps(entry)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return FileError(shown, file=file.label, line=line, expected=expected)
