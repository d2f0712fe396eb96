"""Converters of the strings of a column to numbers and indices."""

import re
from collections.abc import Callable, Iterable

import numpy as np

_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?)((?<=:\d\d:\d\d)\.(\d+))?(Z|\+00:00)?$"
)

MAX_ID = 2**31 - 1
ANY_ID = "an identifier that is not empty"
INTEGER_ID = f"a whole number from 1 to {MAX_ID}"
NUMBER = "a finite number"
TIMESTAMP = "a date like 2018-09-24, or a number (of seconds) within 64 bits"


def identifiers(values: list[str]) -> list[str]:
    """Converter of identifiers, which must not be empty."""
    if "" in values:
        raise ValueError("empty identifier")
    return values


def floats(low: float = -np.inf, high: float = np.inf) -> Callable:
    """Returns a converter to float64 that accepts finite values in `[low, high]`."""

    def convert(values: list[str]) -> np.ndarray:
        _refuse_underscores(values)
        numbers = np.fromiter(map(float, values), np.float64, len(values))
        # Ratings are stored as float32, in which 1e39 would be infinite.
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers.astype(np.float32)).all()
        if not finite or not ((numbers >= low) & (numbers <= high)).all():
            raise ValueError("not finite, or out of range")
        return numbers

    return convert


def timestamps(values: list[str]) -> np.ndarray:
    """Converter of numbers or ISO 8601 dates (in UTC) to an exact clock.

    Returns:
        `[n, 2]` int64, whole seconds and nanoseconds; `clock` joins them.
    """
    _refuse_underscores(values)
    try:
        seconds = np.fromiter(map(int, values), np.int64, len(values))
        return np.stack([seconds, np.zeros_like(seconds)], axis=1)
    except ValueError:
        dates = [_DATE.match(value) for value in values]
    if all(dates):
        plain, fractions = zip(
            *(date.group(1, 5) for date in dates if date), strict=True
        )
        seconds = np.array(plain, "datetime64[s]").astype(np.int64)
        digits = [f"{fraction or ''}000000000"[:9] for fraction in fractions]
        return np.stack([seconds, np.array(digits, np.int64)], axis=1)
    numbers = np.fromiter(map(float, values), np.float64, len(values))
    if not (np.abs(numbers) < 2.0**63).all():  # also false for NaN
        raise ValueError("not finite, or beyond 64 bits")
    whole = np.floor(numbers)
    return np.stack([whole, (numbers - whole) * 1e9], axis=1).astype(np.int64)


def clock(times: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Joins seconds and nanoseconds, without a change of the order.

    Args:
        times: `[n, 2]` int64, see `timestamps`.

    Returns:
        `[n]` int64 seconds, or if some have a fraction, ranks of the distinct times;
        and the note `timestamps_with_fractions`, the number of these.
    """
    seconds, nanoseconds = times.T
    fractions = int((nanoseconds > 0).sum())
    if not fractions:
        return seconds, {}
    order = np.lexsort((nanoseconds, seconds))
    rank = np.zeros(len(times), np.int64)
    later = (np.diff(times[order], axis=0) != 0).any(axis=1)
    rank[order[1:]] = np.cumsum(later)
    return rank, {"timestamps_with_fractions": fractions}


class Vocabulary:
    """Converter of identifiers to indices, in order of appearance.

    Args:
        ids: Identifiers known beforehand, which come first.
        closed: Whether other identifiers are refused (with `KeyError`) or appended.
        integer: Whether identifiers must be whole numbers from 1 to `MAX_ID`.
    """

    def __init__(
        self, ids: Iterable[str] = (), *, closed: bool = False, integer: bool = False
    ):
        self._index = {name: index for index, name in enumerate(ids)}
        self._closed, self._integer = closed, integer

    @property
    def ids(self) -> list[str]:
        return list(self._index)

    def __call__(self, values: list[str]) -> np.ndarray:
        index = self._index
        identifiers(values)
        if self._integer:
            _refuse_underscores(values)
            if not all(1 <= number <= MAX_ID for number in map(int, values)):
                raise ValueError("out of range")
        if not self._closed:
            for value in dict.fromkeys(values):  # distinct values, in order
                # len is evaluated before setdefault inserts: the next free index.
                index.setdefault(value, len(index))
        return np.fromiter(map(index.__getitem__, values), np.int64, len(values))


def _refuse_underscores(values: list[str]) -> None:
    """Refuses numbers such as "1_0", which `int` and `float` read as 10."""
    if "_" in "".join(values):
        raise ValueError("underscore in a number")
