"""Items (and users) as texts for a language model, and free notes about them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.data.sources.convert import ANY_ID, identifiers
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.data.sources.tables import Column, open_table
from fedjax_rec.storage.errors import FileError

DEFAULT_TEMPLATES: dict[str, str] = {
    "movielens-100k": "{title}[. Genres: {genres}]",
    "movielens-1m": "{title}[. Genres: {genres}]",
    "movielens-latest-small": "{title}[. Genres: {genres}]",
    "amazon": "{title}",
    "synthetic": "{title}[. Genre: {genre}]",
}
"""Templates by the name of the data. Tags are left out: users write them later."""

# Spellings of a missing genre.
_NONE = ("unknown", "(no genres listed)")
_BRACKETS = re.compile(r"(\[\[|\]\]|\[|\])")

_NOTE_NAMES = ("text", "note", "notes", "description", "summary")
_ID_NAMES = ("item", "item_id", "itemId", "id")

# Pairs of id and text, and a function from the index of a pair to its line.
_Read = tuple[list[tuple[str, str]], Callable[[int], int]]


class _Field(NamedTuple):
    name: str
    limit: int | None


class _Part(NamedTuple):
    pieces: tuple[str | _Field, ...]
    optional: bool


def item_texts(
    items: Entities, template: str, notes: Mapping[str, str] | None = None
) -> list[str]:
    """Makes one text per item from a template like `"{title}[. Genres: {genres}]"`.

    Fields are `title`, every attribute column, and `note`. A part in brackets, with its
    label, is left out for items with an empty field in it. Several values of a column
    are shown as `a, b`, those that differ only in case once; `{tags:10}` shows the
    first ten. A genre that means "none" counts as empty. `[[`, `]]`, `{{` and `}}`
    stand for the characters themselves.

    Warning: Users write tags. They are side information like any other, but a tag that
    a test user wrote after the time of the split may reveal the answer. No default
    template contains them.

    Args:
        items: `items` of `Interactions`; its `users` also work.
        template: Text with fields in braces and optional parts in brackets.
        notes: Raw item id to a free text, the field `note`; unknown ids are ignored,
            unless all are unknown.

    Returns:
        `[I]` texts, in index order; empty if an item has none of the fields.

    Raises:
        ValueError: The template is malformed or has an unknown field, or no note
            belongs to an item.

    >>> toys = Entities(ids=["7"], titles=["Duck"], attributes={"tags": ["wet|new"]})
    >>> item_texts(toys, "{title}[. Tags: {tags}][. {note}]")
    ['Duck. Tags: wet, new']
    """
    parts = _parse(template)
    columns = _columns(items, notes)
    for part in parts:
        for piece in part.pieces:
            if isinstance(piece, _Field) and piece.name not in columns:
                raise ValueError(
                    f"template {template!r} has the field {piece.name!r}; expected "
                    f"some of: {', '.join(columns)}"
                )
    return [
        "".join(_render(part, columns, row) for part in parts)
        for row in range(len(items.ids))
    ]


def default_template(data: Interactions) -> str:
    """Returns the template in `DEFAULT_TEMPLATES`, else titles and genres, if any.

    Raises:
        ValueError: The items have no titles.
    """
    if data.items.titles is None:
        available = ", ".join(data.items.attributes) or "none"
        raise ValueError(
            f"items of {data.name!r} have no titles; expected a template over their "
            f"attributes: {available}. For a csv, name the titles with items_file="
        )
    if data.name in DEFAULT_TEMPLATES:
        return DEFAULT_TEMPLATES[data.name]
    genres = (n for n in data.items.attributes if n.lower() in ("genre", "genres"))
    return "{title}" + "".join(f"[. Genres: {{{name}}}]" for name in genres)


def _columns(
    items: Entities, notes: Mapping[str, str] | None
) -> dict[str, Sequence[str]]:
    columns: dict[str, Sequence[str]] = {}
    if items.titles is not None:
        columns["title"] = items.titles
    columns |= items.attributes
    if notes is None:
        # A template with an optional note also works without notes.
        columns.setdefault("note", [""] * len(items.ids))
        return columns
    if notes and not any(raw in notes for raw in items.ids):
        raise ValueError(
            f"none of the {len(notes)} notes belongs to an item: they are for ids like "
            f"{next(iter(notes))!r}, and items have ids like {items.ids[0]!r}"
        )
    columns["note"] = [notes.get(raw, "") for raw in items.ids]
    return columns


def _parse(template: str) -> list[_Part]:
    parts, text, inside = [], "", False
    for token in _BRACKETS.split(template):
        if token not in ("[", "]"):
            text += token[0] if token in ("[[", "]]") else token
            continue
        if inside == (token == "["):
            raise ValueError(
                f"template {template!r} has a {token!r} too many; expected optional "
                "parts that are closed and not nested, or [[ and ]] for brackets"
            )
        parts.append(_Part(_pieces(text, template), inside))
        text, inside = "", not inside
    if inside:
        raise ValueError(f"template {template!r} leaves a '[' open")
    return [*parts, _Part(_pieces(text, template), False)]


def _pieces(text: str, template: str) -> tuple[str | _Field, ...]:
    pieces: list[str | _Field] = []
    try:
        for literal, name, limit, conversion in Formatter().parse(text):
            pieces.append(literal)
            if name is None:
                continue
            if conversion or (limit and not re.fullmatch("[1-9][0-9]*", limit)):
                raise ValueError(
                    f"field {name!r} takes a number of values after a colon, or nothing"
                )
            pieces.append(_Field(name, int(limit) if limit else None))
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}") from error
    return tuple(pieces)


def _render(part: _Part, columns: Mapping[str, Sequence[str]], row: int) -> str:
    shown = []
    for piece in part.pieces:
        if isinstance(piece, str):
            shown.append(piece)
            continue
        value = columns[piece.name][row].strip()
        if piece.name not in ("title", "note"):
            value = _listed(value, piece.limit)
        if part.optional and not value:
            return ""
        shown.append(value)
    return "".join(shown)


def _listed(value: str, limit: int | None) -> str:
    """Shows the values of `a|b|A` as `a, b`."""
    if value in _NONE:
        return ""
    values: dict[str, str] = {}
    for name in map(str.strip, value.split("|")):
        if name:
            values.setdefault(name.casefold(), name)
    return ", ".join([*values.values()][:limit])


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
            message = f"item {item!r} a second time"
            raise file.error(message, "one text per item", line=line(row))
        notes[item] = " ".join(text.split())
    return notes


def _table(file: InputFile) -> _Read:
    table = open_table(file)
    names = table.names
    item = names.index("id") if "id" in names else table.require("item")
    texts = [index for index, name in enumerate(names) if name.lower() in _NOTE_NAMES]
    if not texts and len(names) == 2:
        texts = [1 - item]
    if not texts:
        table.refuse_header(
            f"one of {', '.join(_NOTE_NAMES)} for the text", "Rename the column"
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
            expected = 'one object per line, such as {"item": "7", "text": "..."}'
            raise file.error(f"no JSON ({error})", expected, line=line) from error
        if not isinstance(entry, dict):
            raise _lacks(entry, "an object", file, line)
        item, note = _first(entry, _ID_NAMES), _first(entry, _NOTE_NAMES)
        # bool is an int in Python, but not an identifier.
        if isinstance(item, bool) or not isinstance(item, str | int) or item == "":
            raise _lacks(entry, f"an id under {' or '.join(_ID_NAMES)}", file, line)
        if not isinstance(note, str):
            raise _lacks(entry, f"a text under {' or '.join(_NOTE_NAMES)}", file, line)
        pairs.append((str(item), note))
        lines.append(line)
    return pairs, lines.__getitem__


def _first(entry: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((entry[name] for name in names if name in entry), None)


def _lacks(entry: Any, expected: str, file: InputFile, line: int) -> FileError:
    text = json.dumps(entry)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return file.error(shown, expected, line=line)
