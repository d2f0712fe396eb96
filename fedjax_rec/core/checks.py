"""Checks of settings."""

from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_ranges(settings: Any, **ranges: str) -> None:
    """Raises a ValueError unless numbers lie in their intervals.

    Args:
        settings: a dataclass.
        **ranges: interval of a field, such as `"[0, 0.5)"`; `None` lies in each. An
            open end at infinity excludes infinite numbers.
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
