"""A table's first row: its delimiter, its columns, and which of them means what."""

import csv
import re
from typing import NamedTuple

from fedjax_rec.data.sources.tables import rows
from fedjax_rec.storage.errors import FileError

DELIMITERS = ("::", "\t", ",", "|")

# Names met in public data sets, in lower case and without `_`, `-` and spaces; the
# first that the header holds is taken.
_KNOWN = {
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


class Header(NamedTuple):
    """What the columns of a table are.

    Attributes:
        label: the file's name in errors.
        delimiter: between fields.
        names: of the columns, without a type such as RecBole's `:token`.
        types: by column name, where the header gives one.
        skip: header rows.
    """

    label: str
    delimiter: str
    names: tuple[str, ...]
    types: dict[str, str] = {}  # noqa: RUF012 - never changed
    skip: int = 1

    def find(self, role: str, name: str | None = None) -> int | None:
        """The place of a column.

        Args:
            role: `user`, `item`, `rating`, `timestamp` or `title`.
            name: the column's name where the user gave one; else known names count.

        Returns:
            Its index, or `None` where no known name is there.

        Raises:
            FileError: the column the user named is not there.
        """
        if name is not None:
            if str(name) in self.names:
                return self.names.index(str(name))
            raise FileError(
                f"the columns {', '.join(self.names)}",
                file=self.label,
                line=1,
                expected=f"the column {name!r} that the option {role} names",
            )
        normal = [re.sub(r"[\s_-]", "", n).lower() for n in self.names]
        known = (n for n in _KNOWN[role].split() if n in normal)
        first = next(known, None)
        return None if first is None else normal.index(first)

    def require(self, role: str, name: str | None = None) -> int:
        """As `find`, and an error where there is no such column."""
        place = self.find(role, name)
        if place is None:
            raise FileError(
                f"the columns {', '.join(self.names)}",
                file=self.label,
                line=1,
                expected=f"one for the {role}, such as {_KNOWN[role].split()[1]!r}",
                fix=(
                    f"Name it: {role}='...'. If the first line is data already, pass "
                    "header=False, and columns count from '0'"
                ),
            )
        return place


def read_header(
    text: str, label: str, delimiter: str | None = None, *, first_is_data: bool = False
) -> Header:
    """The header of a table, its delimiter guessed where none is given.

    Args:
        text: the file's text.
        label: the file's name in errors.
        delimiter: between fields (`tab` for a tab), or `None` for that of `DELIMITERS`
            which the first line holds most often.
        first_is_data: there is no header, and columns are called `0`, `1`, and so on.

    Raises:
        FileError: no delimiter is in the first line, or a column comes twice.

    >>> read_header("a:token\\tb:float\\n", "t").names
    ('a', 'b')
    """
    line = text.split("\n", 1)[0].rstrip("\r")
    delimiter = {"tab": "\t", "\\t": "\t"}.get(delimiter or "", delimiter)
    choices = (delimiter,) if delimiter else DELIMITERS
    delimiter = max(choices, key=line.count)
    if delimiter not in line:
        raise FileError(
            f"{line[:80]!r}",
            file=label,
            line=1,
            expected=f"columns separated by {' or '.join(map(repr, choices))}",
            fix="Pass delimiter='...' for another one",
        )
    try:
        fields = next(rows(line, delimiter))
    except csv.Error as error:
        raise FileError(f"broken quoting ({error})", file=label, line=1) from error
    if first_is_data:
        return Header(label, delimiter, tuple(map(str, range(len(fields)))), {}, 0)
    pairs = [_untyped(field) for field in fields]
    names = tuple(name for name, _ in pairs)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise FileError(
            f"the column {', '.join(twice)} more than once",
            file=label,
            line=1,
            expected="a header of different names",
            fix="If the first line is data already, pass header=False",
        )
    return Header(label, delimiter, names, {n: kind for n, kind in pairs if kind})


def _untyped(field: str) -> tuple[str, str]:
    """A column's name and its RecBole type, `""` where it has none."""
    name, _, kind = field.strip().partition(":")
    if kind in ("token", "token_seq", "float", "float_seq"):
        return name, kind
    return field.strip(), ""
