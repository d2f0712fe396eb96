"""Items (and users) as texts for a language model."""

import re
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from fedjax_rec.data.interactions import Entities, Interactions

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
