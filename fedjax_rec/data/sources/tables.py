"""Delimited text to columns, in blocks, with the exact line when a value is wrong."""

import csv
import io
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_rec.storage.errors import FileError

BLOCK_ROWS = 8_192
"""Rows held as Python strings at once: whole files of them would take gigabytes."""


class Column(NamedTuple):
    """One column to read.

    Attributes:
        name: as errors call it.
        index: its place in a row.
        convert: the strings of a block to an array or a list; raises `ValueError`,
            `KeyError` or `OverflowError` for what it does not take.
        expected: what it takes, in words.
    """

    name: str
    index: int
    convert: Callable[[list[str]], Any]
    expected: str


def read_columns(
    text: str,
    label: str,
    delimiter: str,
    columns: Sequence[Column],
    *,
    width: int,
    skip: int = 0,
    allow_no_rows: bool = False,
) -> list[Any]:
    r"""Reads the wanted columns of a table.

    Only `,` knows quotes (RFC 4180); the other delimiters have none, and quote
    characters are text.

    Args:
        text: the file's text.
        label: the file's name in errors.
        delimiter: `,`, a tab, `::` or `|`.
        columns: the columns to read.
        width: fields of every row.
        skip: header rows.
        allow_no_rows: whether a table of the header alone is fine.

    Returns:
        One array or list a column, in the order of `columns`.

    Raises:
        FileError: with the line of the first row that does not fit.

    >>> read_columns("1,a\n2,b\n", "t", ",", [Column("n", 1, list, "")], width=2)
    [['a', 'b']]
    """
    reader = rows(text, delimiter)
    collected: list[list[Any]] = [[] for _ in columns]
    start = 0
    while True:
        try:
            block = list(itertools.islice(reader, BLOCK_ROWS))
        except csv.Error as error:
            raise _broken_row(text, label, delimiter) from error
        if not block:
            break
        first = start or skip
        body = block[first - start :]
        _check_width(body, width, text, label, delimiter, first)
        for column, parts in zip(columns, collected, strict=True):
            values = list(map(operator.itemgetter(column.index), body))
            try:
                parts.append(column.convert(values))
            except (ValueError, KeyError, OverflowError) as error:
                raise _bad_value(
                    column, values, text, label, delimiter, first
                ) from error
        start += len(block)
    if start <= skip and not allow_no_rows:
        raise FileError(
            "a header and no rows", file=label, expected="at least one row of data"
        )
    return [_join(parts) for parts in collected]


def rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """The rows of `text`, without the blank lines at its end."""
    text = text.rstrip("\r\n")
    if delimiter == ",":
        return iter(csv.reader(io.StringIO(text, newline=""), strict=True))
    # str.splitlines would also break at \x85 and others, which titles may hold.
    lines = text.replace("\r\n", "\n").split("\n")
    return (line.split(delimiter) for line in lines)


def line_of(text: str, delimiter: str, row: int) -> int:
    """The line, from 1, on which row number `row` (from 0) begins."""
    if delimiter != ",":
        return row + 1
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    for _ in itertools.islice(reader, row):
        pass
    return reader.line_num + 1


def _check_width(
    block: list[list[str]],
    width: int,
    text: str,
    label: str,
    delimiter: str,
    first: int,
) -> None:
    if set(map(len, block)) <= {width}:
        return
    offset = next(i for i, row in enumerate(block) if len(row) != width)
    row = block[offset]
    blank = not any(field.strip() for field in row)
    shown = _shorten(delimiter.join(row))
    raise FileError(
        "a blank line" if blank else f"{len(row)} fields ({shown})",
        file=label,
        line=line_of(text, delimiter, first + offset),
        expected=f"{width} fields separated by {delimiter!r}",
        fix="Repair or remove the line",
    )


def _bad_value(
    column: Column,
    values: list[str],
    text: str,
    label: str,
    delimiter: str,
    first: int,
) -> FileError:
    """The error for the first of `values` that the column does not take alone."""
    for offset, value in enumerate(values):
        try:
            column.convert([value])
        except (ValueError, KeyError, OverflowError):
            return FileError(
                f"{column.name} {_shorten(value)!r}",
                file=label,
                line=line_of(text, delimiter, first + offset),
                expected=column.expected,
                fix="Repair or remove the line",
            )
    raise AssertionError(f"{column.name}: a block failed, and none of its values does")


def _broken_row(text: str, label: str, delimiter: str) -> FileError:
    """The error for the row at which the csv module gives up."""
    reader = rows(text, delimiter)
    row = 0
    try:
        for _ in reader:
            row += 1
    except csv.Error as error:
        return FileError(
            f"broken quoting ({error})",
            file=label,
            line=line_of(text, delimiter, row),
            expected="fields quoted as in RFC 4180",
            fix="Close the quote, and double quotes inside a quoted field",
        )
    raise AssertionError("a row failed once, and reads now")


def _shorten(value: str, limit: int = 60) -> str:
    return value if len(value) <= limit else value[: limit - 3] + "..."


def _join(parts: list[Any]) -> Any:
    if parts and isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [value for part in parts for value in part]
