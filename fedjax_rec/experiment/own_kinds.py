"""Kinds of parts that a user's file adds to those of the package."""

import dataclasses
import re
import types
from collections.abc import Callable
from typing import TypeVar

from fedjax_rec.experiment import registry

_Class = TypeVar("_Class", bound=type)
_DECLARED = "__fedjax_rec_kind__"


def kind(slot: str, name: str | None = None) -> Callable[[_Class], _Class]:
    """Declares a class of settings as a kind, so that flags and grids can name it.

    The kind exists for experiments whose config file defines or imports the class, and
    for all with `--plugin FILE`.

    Args:
        slot: the field of an experiment that takes it, such as `"codec"`.
        name: its name there; by default that of the class, in lower case with
            underscores.

    Returns:
        A decorator for a frozen dataclass whose fields have defaults.

    Raises:
        ValueError: there is no such slot.

    >>> @kind("codec", "nothing")
    ... class Nothing: ...
    >>> kind("compressor")
    Traceback (most recent call last):
    ValueError: slot='compressor', expected one of data, split, partition, ...
    """
    if slot not in registry.SLOTS:
        raise ValueError(f"slot={slot!r}, expected one of {', '.join(registry.SLOTS)}")

    def declare(cls: _Class) -> _Class:
        setattr(cls, _DECLARED, (slot, name or snake_case(cls.__name__)))
        return cls

    return declare


def snake_case(name: str) -> str:
    """A class's name as flags have it.

    >>> snake_case("FixedPoint"), snake_case("QSGD"), snake_case("DPFedAvg")
    ('fixed_point', 'qsgd', 'dp_fed_avg')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return words.lower()


def declared(module: types.ModuleType) -> list[type]:
    """The classes of a module, also imported ones, that `kind` has declared."""
    values = list(vars(module).values())
    return [v for v in values if isinstance(v, type) and _DECLARED in vars(v)]


def declaration(cls: type) -> tuple[str, str] | None:
    """Slot and name that `kind` has declared for a class."""
    return vars(cls).get(_DECLARED)


def add_kinds(module: types.ModuleType) -> None:
    """Adds the kinds that a module declares or imports to the registry.

    Raises:
        ValueError: a name is taken, or a class has a field without a default.
    """
    for cls in declared(module):
        slot, name = vars(cls)[_DECLARED]
        _check(cls)
        registry.add(slot, name, cls)


def _check(cls: type) -> None:
    if not dataclasses.is_dataclass(cls):
        raise ValueError(
            f"{cls.__name__} is declared as a kind and is no dataclass: write "
            "@dataclasses.dataclass(frozen=True, kw_only=True) below @kind(...)"
        )
    missing = dataclasses.MISSING
    fields = dataclasses.fields(cls)
    bare = [
        f.name for f in fields if f.default is missing and f.default_factory is missing
    ]
    if bare:
        raise ValueError(
            f"{cls.__name__}.{bare[0]} has no default: a kind is chosen by its name "
            "alone, and flags then change its fields"
        )
