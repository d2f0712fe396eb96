"""Columns of frames as ids, texts, ratings and times; errors name the first bad row."""

import datetime
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from fedjax_rec.data.sources.convert import clock, timestamps

_LARGEST = int(np.iinfo(np.int64).max)


def ids_of(values: np.ndarray, name: str) -> list[str]:
    """Ids as texts: `7`, `7.0` and `"7"` are spelled 7.

    Raises:
        ValueError: an id is missing, empty, or neither a text nor a whole number, or
            texts and numbers are mixed.
    """
    _refuse_missing(values, name)
    expected = "ids that are texts or whole numbers"
    if values.dtype == object:
        _refuse(values, name, lambda v: _kind(v) is None, expected)
        if len({_kind(value) for value in values.tolist()}) > 1:
            _refuse(values, name, lambda v: _kind(v) is str, "numbers, or texts only")
        return _not_empty(list(map(str, values.tolist())), values, name)
    if values.dtype.kind == "f":
        exact = np.float64(2**53)
        is_integer = (values == np.floor(values)) & (np.abs(values) <= exact)
        if not is_integer.all():
            _refuse_rows(values, name, ~is_integer, expected)
        values = values.astype(np.int64)
    if values.dtype.kind not in "iuUT":
        _refuse_rows(values, name, np.ones(len(values), bool), expected)
    return _not_empty([str(value) for value in values.tolist()], values, name)


def _kind(value: Any) -> type | None:
    """`str` for a text, `int` for a whole number of any library, else `None`."""
    if isinstance(value, str):
        return str
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return int if is_integer else None


def _not_empty(ids: list[str], values: np.ndarray, name: str) -> list[str]:
    if "" in ids:
        _refuse(values, name, lambda value: value == "", "ids that are not empty")
    return ids


def texts_of(values: np.ndarray, name: str) -> list[str]:
    """Titles or attributes; a missing one is empty, and lists are joined by `|`.

    Raises:
        ValueError: the column is of bytes.
    """
    if values.dtype.kind == "S":
        _refuse_rows(values, name, np.ones(len(values), bool), "texts, not bytes")

    def text(value: Any, absent: bool) -> str:
        if isinstance(value, list | tuple | set | np.ndarray):
            return "|".join(map(str, value))
        return "" if absent else str(value)

    missing = _missing(values)
    return [text(v, m) for v, m in zip(values.tolist(), missing.tolist(), strict=True)]


def ratings_of(values: np.ndarray, name: str) -> np.ndarray:
    """Ratings as float64.

    Raises:
        ValueError: a rating is missing, no number, or not finite as float32.
    """
    _refuse_missing(values, name)
    numbers = _numbers(values, name, "a number")
    with np.errstate(over="ignore"):
        finite = np.isfinite(numbers.astype(np.float32))
    if not finite.all():
        _refuse_rows(values, name, ~finite, "a finite number (float32)")
    return numbers


def times_of(values: np.ndarray, name: str) -> tuple[np.ndarray, dict[str, int]]:
    """Times as int64, and notes.

    Whole numbers stay as they are. Dates become nanoseconds since 1970 in UTC; those
    without a time zone count as UTC. If some numbers have a fraction, all become ranks.

    Raises:
        ValueError: a time is missing, neither a number nor a date, or out of range.
    """
    _refuse_missing(values, name)
    if values.dtype == object and all(
        isinstance(v, datetime.date | np.datetime64) for v in values.tolist()
    ):
        values = np.array([_date(v) for v in values.tolist()], "datetime64[ns]")
    if values.dtype.kind == "M":
        times = values.astype("datetime64[ns]")
        # A date beyond the range of nanoseconds wraps around without an error.
        wrapped = times.astype(values.dtype) != values
        if wrapped.any():
            _refuse_rows(values, name, wrapped, "a date from 1678 to 2262")
        return times.astype(np.int64), {}
    expected = "a whole number or a date; pandas.to_datetime reads dates from texts"
    if values.dtype.kind in "iu" or (
        values.dtype == object and all(_kind(v) is int for v in values.tolist())
    ):
        # A missing date becomes the smallest integer as a number.
        out = (values > _LARGEST) | (values < -_LARGEST)
        if out.any():
            _refuse_rows(
                values, name, out, "a number within 64 bits, and no missing date"
            )
        return values.astype(np.int64), {}
    numbers = _numbers(values, name, expected)
    bad = ~(np.abs(numbers) < 2.0**63)
    if bad.any():
        _refuse_rows(values, name, bad, "a finite number within 64 bits")
    return clock(timestamps(list(map(repr, numbers.tolist()))))


def _date(value: Any) -> np.datetime64:
    if hasattr(value, "to_datetime64"):  # a Timestamp of pandas: UTC, all digits
        return value.to_datetime64()
    if isinstance(value, datetime.datetime) and value.tzinfo is not None:
        value = value.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(value)


def _numbers(values: np.ndarray, name: str, expected: str) -> np.ndarray:
    """A column of numbers as float64; texts and dates are none."""
    if values.dtype == object:
        _refuse(values, name, lambda v: not isinstance(v, _NUMBERS), expected)
    elif values.dtype.kind not in "iufb":
        _refuse_rows(values, name, np.ones(len(values), bool), expected)
    return values.astype(np.float64)


_NUMBERS = (int, float, np.number)


def _missing(values: np.ndarray) -> np.ndarray:
    """`[n]` bool: NaN, NaT, None, and the missing values of pandas."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype != object:
        return np.zeros(len(values), bool)

    def absent(value: Any) -> bool:
        # `pandas.NA` is not equal to itself, and has no truth value.
        named = type(value).__name__ in ("NAType", "NaTType")
        number = isinstance(value, float | np.floating | np.datetime64)
        return value is None or named or (number and value != value)

    return np.array([absent(value) for value in values.tolist()], bool)


def _refuse_missing(values: np.ndarray, name: str) -> None:
    if (missing := _missing(values)).any():
        count = int(missing.sum())
        raise ValueError(
            f"column {name!r}: {count} of {len(values)} values are missing, the first "
            f"in row {int(np.argmax(missing))}. Drop these rows, or fill them in"
        )


def _refuse(
    values: np.ndarray, name: str, is_bad: Callable[[Any], bool], expected: str
) -> None:
    """Raises if some values are bad."""
    bad = np.array([is_bad(value) for value in values.tolist()], bool)
    if bad.any():
        _refuse_rows(values, name, bad, expected)


def _refuse_rows(
    values: np.ndarray, name: str, bad: np.ndarray, expected: str
) -> NoReturn:
    row = int(np.argmax(bad)) if len(bad) else 0
    value = values.tolist()[row] if values.dtype.kind != "M" else values[row]
    raise ValueError(
        f"column {name!r}, row {row}: {value!r:.60}; expected {expected}. "
        f"{int(bad.sum())} of {len(values)} rows differ"
    )
