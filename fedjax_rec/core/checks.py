"""Checks of settings."""

import dataclasses
import os
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_LARGEST = (2 - 2**-23) * 2.0**127


def check_ranges(settings: Any, **ranges: str) -> None:
    """Raises a ValueError unless numbers lie in their intervals.

    Args:
        settings: a dataclass.
        **ranges: interval of a field, such as `"[0, 0.5)"`; `None` lies in each. An
            open end at infinity excludes numbers that are infinite in float32.
    """
    for name, interval in ranges.items():
        value = getattr(settings, name)
        low, high = (float(end) for end in interval[1:-1].split(","))
        if value is None:
            continue
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"{name}={value}, expected a number in {interval}")
        if interval[-1] == ")" and high > _LARGEST and not value <= _LARGEST:
            raise ValueError(
                f"{name}={value}, expected a number of at most {_LARGEST:.6g}, the "
                "largest in float32"
            )


def check_settings(settings: Any, **ranges: str) -> None:
    """Raises a ValueError unless fields have a value that their type allows.

    Args:
        settings: a dataclass; fields of a `Literal` type have one of its values.
        **ranges: intervals of numbers, as for `check_ranges`.
    """
    check_ranges(settings, **ranges)
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            *others, last = get_args(hint)
            expected = f"{', '.join(others)} or {last}"
            raise ValueError(f"{name}={value!r}, expected {expected}")


def check_choice(settings: Any, field: str, choices: tuple[str, ...]) -> None:
    """Raises a ValueError unless a field has one of some values."""
    value = getattr(settings, field)
    if value not in choices:
        raise ValueError(f"{field}={value!r}, expected one of {', '.join(choices)}")


def check_unread(settings: Any, why: str, *names: str) -> None:
    """Raises a ValueError if fields that nothing reads are not at their defaults.

    Args:
        settings: a dataclass.
        why: the setting that makes them void.
        *names: the fields.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name in names and value != field.default:
            raise ValueError(
                f"{field.name}={value} has no effect with {why}: leave it at "
                f"{field.default}"
            )


def check_type(name: str, value: Any, hint: Any) -> None:
    """Raises a TypeError unless a value has a type of numbers, text or sequences.

    Args:
        name: dotted name of the field.
        value: its value.
        hint: its type; values of other types than these are not checked.
    """
    if not _fits(value, hint):
        expected = _WORDS.get(hint, str(hint).replace("typing.", ""))
        raise TypeError(f"{name}={value!r}: expected {expected}")


_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in inner)
    if hint in (None, types.NoneType):
        return value is None
    if origin is Literal:
        return value in inner
    if origin in (tuple, list):
        if not isinstance(value, tuple | list):
            return False
        return len(inner) != 2 or all(_fits(item, inner[0]) for item in value)
    if hint is bool:
        return isinstance(value, bool) or type(value).__name__ == "bool"
    if hint is str:
        return isinstance(value, str | os.PathLike)
    if hint in (int, float):  # a sweep puts other numbers in their place
        wrong = (str, bytes, bool, type(None), tuple, list, dict, set)
        return not isinstance(value, (*wrong, float) if hint is int else wrong)
    return True
