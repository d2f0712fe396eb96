"""Delimited text: its header, and its columns in blocks; errors name the exact line."""

import csv
import io
import itertools
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.storage.errors import FileError

DELIMITERS = ("::", "\t", ",", "|")
_BAD_VALUE = (ValueError, KeyError, OverflowError)

# Rows held as Python strings at once: those of a complete file would take gigabytes.
_BLOCK_ROWS = 8_192

# Column names of public data sets, in lower case and without `_`, `-` and spaces; the
# first that is in the header is used.
_COLUMN_NAMES = {
    "user": (
        "user userid uid username reviewerid customerid visitorid memberid sessionid "
        "session"
    ),
    "item": (
        "item itemid iid movieid movie parentasin asin productid product bookid isbn "
        "trackid songid artistid businessid articleid newsid gameid sku"
    ),
    "rating": "rating ratings score stars overall preference",
    "timestamp": (
        "timestamp time ts unixtime unixreviewtime unixtimestamp datetime date"
    ),
    "title": (
        "title name itemname itemtitle movietitle movie producttitle productname "
        "booktitle"
    ),
}


class Column(NamedTuple):
    """A column to read.

    Attributes:
        name: Name in error messages.
        index: Position in a row.
        convert: Converts the strings of a block to an array or a list. Raises
            `ValueError`, `KeyError` or `OverflowError` for values it does not accept.
        expected: Description of the accepted values.
    """

    name: str
    index: int
    convert: Callable[[list[str]], Any]
    expected: str


class Table(NamedTuple):
    """A table as delimited text.

    Only `,` supports quotes (RFC 4180); with other delimiters they are text.

    Attributes:
        text: Content of the file.
        label: Name of the file in error messages.
        delimiter: `,`, a tab, `::` or `|`.
        names: Column names, without a type such as RecBole's `:token`.
        skip: Number of header rows.
        types: Column name to type, for columns that have one.
    """

    text: str
    label: str
    delimiter: str
    names: tuple[str, ...]
    skip: int = 0
    types: Mapping[str, str] = {}

    def find(self, role: str, name: str | None = None) -> int | None:
        """Returns the index of a column, or `None` if no known name is in the header.

        Args:
            role: `user`, `item`, `rating`, `timestamp` or `title`.
            name: Column name given by the user; by default, known names are tried.

        Raises:
            FileError: The column that the user named is absent.
        """
        if name is not None:
            if str(name) in self.names:
                return self.names.index(str(name))
            self.refuse_header(f"the column {name!r} that the option {role} names")
        normal = [re.sub(r"[\s_-]", "", n).lower() for n in self.names]
        matches = (n for n in _COLUMN_NAMES[role].split() if n in normal)
        first = next(matches, None)
        return None if first is None else normal.index(first)

    def require(self, role: str, name: str | None = None) -> int:
        """Same as `find`, but an absent column is an error."""
        index = self.find(role, name)
        if index is None:
            self.refuse_header(
                f"one for the {role}, such as {_COLUMN_NAMES[role].split()[1]!r}",
                f"Name it: {role}='...'. If the first line is data already, pass "
                "header=False, and columns count from '0'",
            )
        return index

    def refuse_header(self, expected: str, fix: str = "") -> NoReturn:
        """Raises a `FileError` about the column names."""
        names = ", ".join(self.names)
        raise self.error(-self.skip, f"the columns {names}", expected, fix)

    def error(self, row: int, message: str, expected: str, fix: str = "") -> FileError:
        """Returns the error about row number `row`, from 0 after the header."""
        return FileError(
            message, file=self.label, line=self.line(row), expected=expected, fix=fix
        )

    def line(self, row: int) -> int:
        """Returns the line, from 1, on which row number `row` begins."""
        row += self.skip
        if self.delimiter != ",":
            return row + 1
        reader = csv.reader(io.StringIO(self.text, newline=""), strict=True)
        for _ in itertools.islice(reader, row):
            pass
        return reader.line_num + 1

    def read(
        self, columns: Sequence[Column], *, allow_no_rows: bool = False
    ) -> list[Any]:
        r"""Reads columns.

        Args:
            columns: The columns.
            allow_no_rows: Whether a table may consist of its header only.

        Returns:
            One array or list per column, in the order of `columns`.

        Raises:
            FileError: A row does not fit; the message names the line of the first one.

        >>> table = Table("1,a\n2,b\n", "t.csv", ",", names=("id", "name"))
        >>> table.read([Column("name", 1, list, "a text")])
        [['a', 'b']]
        """
        blocks: list[list[Any]] = [[] for _ in columns]
        start = 0
        for rows in self._blocks():
            self._check_width(rows, start)
            for column, converted in zip(columns, blocks, strict=True):
                values = list(map(operator.itemgetter(column.index), rows))
                try:
                    converted.append(column.convert(values))
                except _BAD_VALUE as error:
                    raise self._bad_value(column, values, start) from error
            start += len(rows)
        if not start and not allow_no_rows:
            expected = "at least one row of data"
            raise FileError("a header and no rows", file=self.label, expected=expected)
        return [_join(converted) for converted in blocks]

    def _blocks(self) -> Iterator[list[list[str]]]:
        start, rows = 0, []
        reader = _rows(self.text, self.delimiter)
        try:
            for row in itertools.islice(reader, self.skip, None):
                rows.append(row)
                if len(rows) == _BLOCK_ROWS:
                    yield rows
                    start, rows = start + len(rows), []
        except csv.Error as error:
            raise self.error(
                start + len(rows),
                f"broken quoting ({error})",
                "fields quoted as in RFC 4180",
                "Close the quote, and double quotes inside a quoted field",
            ) from error
        if rows:
            yield rows

    def _check_width(self, rows: list[list[str]], start: int) -> None:
        for offset, row in enumerate(rows):
            if len(row) != len(self.names):
                blank = not any(field.strip() for field in row)
                shown = _shorten(self.delimiter.join(row))
                raise self.error(
                    start + offset,
                    "a blank line" if blank else f"{len(row)} fields ({shown})",
                    f"{len(self.names)} fields separated by {self.delimiter!r}",
                    "Repair or remove the line",
                )

    def _bad_value(self, column: Column, values: list[str], start: int) -> FileError:
        """Returns the error about the first value that the column does not accept."""
        for offset, value in enumerate(values):
            try:
                column.convert([value])
            except _BAD_VALUE:
                return self.error(
                    start + offset,
                    f"{column.name} {_shorten(value)!r}",
                    column.expected,
                    "Repair or remove the line",
                )
        raise AssertionError(f"{column.name}: a block failed, but none of its values")


def open_table(
    file: InputFile,
    encoding: str = "utf-8",
    delimiter: str | None = None,
    *,
    header: bool = True,
) -> Table:
    r"""Reads the first line of a table and infers its delimiter.

    Args:
        file: The file.
        encoding: Encoding of its text.
        delimiter: Separator of the fields (`tab` for a tab), or `None` for the one of
            `DELIMITERS` that is most frequent in the first line.
        header: Whether the first line holds column names; otherwise they are `0`, `1`,
            and so on.

    Raises:
        FileError: The first line has no delimiter, or a column occurs twice.

    >>> open_table(InputFile("t", b"a:token\tb:float\n")).names
    ('a', 'b')
    """
    text, label = file.text(encoding), file.label
    line = text.split("\n", 1)[0].rstrip("\r")
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    choices = (delimiter,) if delimiter else DELIMITERS
    delimiter = max(choices, key=line.count)
    if delimiter not in line:
        expected = f"columns separated by {' or '.join(map(repr, choices))}"
        fix = "Pass delimiter='...' for another one"
        raise file.error(f"{line[:80]!r}", expected, fix, line=1)
    try:
        fields = next(_rows(line, delimiter))
    except csv.Error as error:
        raise FileError(f"broken quoting ({error})", file=label, line=1) from error
    if not header:
        return Table(text, label, delimiter, tuple(map(str, range(len(fields)))))
    pairs = [_untyped(field) for field in fields]
    names = tuple(name for name, _ in pairs)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        message = f"the column {', '.join(repeated)} more than once"
        fix = "If the first line is data already, pass header=False"
        raise file.error(message, "a header of different names", fix, line=1)
    types = {name: kind for name, kind in pairs if kind}
    return Table(text, label, delimiter, names, 1, types)


def _untyped(field: str) -> tuple[str, str]:
    """Returns a column's name and its RecBole type, `""` if it has none."""
    name, _, kind = field.strip().partition(":")
    if kind in ("token", "token_seq", "float", "float_seq"):
        return name, kind
    return field.strip(), ""


def _rows(text: str, delimiter: str) -> Iterator[list[str]]:
    """Yields the rows of `text`, without the blank lines at its end."""
    text = text.rstrip("\r\n")
    if delimiter == ",":
        return iter(csv.reader(io.StringIO(text, newline=""), strict=True))
    # str.splitlines would also split at \x85 and others, which titles may contain.
    lines = text.replace("\r\n", "\n").split("\n")
    return (line.split(delimiter) for line in lines)


def _shorten(value: str, limit: int = 60) -> str:
    return value if len(value) <= limit else value[: limit - 3] + "..."


def _join(blocks: list[Any]) -> Any:
    if blocks and isinstance(blocks[0], np.ndarray):
        return np.concatenate(blocks)
    return [value for block in blocks for value in block]
