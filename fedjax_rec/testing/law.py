"""Laws as functions that a part passes or breaks."""

import dataclasses
import unittest
from collections.abc import Callable, Sequence
from typing import Any

from fedjax_rec.simulation.returned import failure


class LawBroken(AssertionError):
    """A part does not do what its contract asks for."""


class NotApplicable(unittest.SkipTest):
    """A law does not apply to a part; pytest and unittest count it as skipped."""


class Unbuilt(NotApplicable):
    """A law is not examined, as the part cannot be built."""


@dataclasses.dataclass(frozen=True)
class Law:
    """A law, bound to a part.

    Attributes:
        name: one sentence.
        test: raises `LawBroken`, `NotApplicable`, or an error of the part.
    """

    name: str
    test: Callable[[], Any]

    def __call__(self) -> str:
        """Checks the part.

        Returns:
            A remark, or an empty string.

        Raises:
            LawBroken: the part breaks the law; the message has the law's name.
            NotApplicable: the law does not apply to the part.
        """
        try:
            return self.test() or ""
        except NotApplicable:
            raise
        except LawBroken as broken:
            raise LawBroken(f"{self.name}: {broken}") from None
        except Exception as error:
            raise LawBroken(f"{self.name}: raised {failure(error)}") from error

    def __str__(self) -> str:
        return self.name


class Subject:
    """The object that the laws of a part examine, made at the first use.

    Args:
        make: makes it from the part; raises if the part cannot be built.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make
        self.made: Any = None
        self.error: Exception | None = None

    def get(self) -> Any:
        """The object, or the error of `make` again."""
        if self.error is not None:
            raise self.error
        if self.made is None:
            try:
                self.made = self.make()
            except Exception as error:
                self.error = error
                raise
        return self.made

    def or_skip(self) -> Any:
        """The object.

        Raises:
            Unbuilt: it cannot be made, as another law reports.
        """
        try:
            return self.get()
        except Exception as error:
            raise Unbuilt("the part cannot be built") from error


def bound(laws: Sequence[Callable[[Any], Any]], subject: Subject) -> list[Law]:
    """Laws about one subject.

    Args:
        laws: functions of the subject; the first line of a docstring is the name. The
            first law is that the part can be built, and the others are skipped if it
            cannot.
        subject: the subject.
    """

    def law(function: Callable[[Any], Any], first: bool) -> Law:
        def test() -> Any:
            return function(subject.get() if first else subject.or_skip())

        return Law(name_of(function), test)

    return [law(function, number == 0) for number, function in enumerate(laws)]


def name_of(law: Callable[..., Any]) -> str:
    """The first line of a law's docstring, without its full stop."""
    return (law.__doc__ or law.__name__).strip().partition("\n")[0].rstrip(".")
