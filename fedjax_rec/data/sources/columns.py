"""What turns a column's strings into numbers and indices, or refuses them."""

import re
from collections.abc import Callable, Iterable

import numpy as np

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?(Z|\+00:00)?$")

MAX_ID = 2**31 - 1
ANY_ID = "an identifier that is not empty"
INTEGER_ID = f"a whole number from 1 to {MAX_ID}"
NUMBER = "a finite number"
TIMESTAMP = "a date like 2018-09-24, or a number (of seconds) within 64 bits"


def integers(low: int, high: int) -> Callable[[list[str]], np.ndarray]:
    """A converter to int64 within `[low, high]`."""

    def convert(values: list[str]) -> np.ndarray:
        _refuse_underscores(values)
        numbers = np.fromiter(map(int, values), np.int64, len(values))
        if len(numbers) and not (low <= numbers.min() and numbers.max() <= high):
            raise ValueError("out of range")
        return numbers

    return convert


def floats(low: float = -np.inf, high: float = np.inf) -> Callable:
    """A converter to float64, finite and within `[low, high]`."""

    def convert(values: list[str]) -> np.ndarray:
        _refuse_underscores(values)
        numbers = np.fromiter(map(float, values), np.float64, len(values))
        # float32 is what ratings are kept in: 1e39 would become infinite there.
        with np.errstate(over="ignore"):
            finite = np.isfinite(numbers.astype(np.float32)).all()
        if not finite or not ((numbers >= low) & (numbers <= high)).all():
            raise ValueError("not finite, or out of range")
        return numbers

    return convert


class Timestamps:
    """A converter of numbers or ISO 8601 dates (in UTC, to seconds) to int64.

    Fractions are cut off and counted.

    Attributes:
        truncated: how many had a fraction.
    """

    def __init__(self):
        self.truncated = 0

    def __call__(self, values: list[str]) -> np.ndarray:
        _refuse_underscores(values)
        try:
            return np.fromiter(map(int, values), np.int64, len(values))
        except ValueError:
            if all(_DATE.match(value) for value in values):
                return _dates(values)
            numbers = np.fromiter(map(float, values), np.float64, len(values))
        if not (np.abs(numbers) < 2.0**63).all():  # false for NaN, too
            raise ValueError("not finite, or beyond 64 bits")
        whole = np.floor(numbers)
        self.truncated += int((whole != numbers).sum())
        return whole.astype(np.int64)


class Vocabulary:
    """A converter from identifiers to their indices, in order of appearance.

    Args:
        ids: identifiers known beforehand; they come first.
        closed: whether others are refused (with `KeyError`) or appended.
        integer: whether identifiers must be whole numbers from 1 to `MAX_ID`.
    """

    def __init__(
        self, ids: Iterable[str] = (), *, closed: bool = False, integer: bool = False
    ):
        self._index = {name: index for index, name in enumerate(ids)}
        self._closed = closed
        self._check = integers(1, MAX_ID) if integer else None

    @property
    def ids(self) -> list[str]:
        return list(self._index)

    def __call__(self, values: list[str]) -> np.ndarray:
        index = self._index
        if self._check is not None:
            self._check(values)
        elif "" in values:
            raise ValueError("empty identifier")
        if not self._closed:
            for value in dict.fromkeys(values):  # the different ones, in order
                # len is taken before setdefault inserts: the next free index.
                index.setdefault(value, len(index))
        return np.fromiter(map(index.__getitem__, values), np.int64, len(values))


def _dates(values: list[str]) -> np.ndarray:
    plain = [value.removesuffix("Z").removesuffix("+00:00") for value in values]
    return np.array(plain, "datetime64[s]").astype(np.int64)


def _refuse_underscores(values: list[str]) -> None:
    """`int` and `float` read "1_0" as 10; no data file means that."""
    if "_" in "".join(values):
        raise ValueError("underscore in a number")
