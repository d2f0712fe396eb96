"""Checks of settings."""

from typing import Any, get_args


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


def check_choices(settings: Any, **choices: Any) -> None:
    """Raises a ValueError unless fields have one of the values of their `Literal`."""
    for name, literal in choices.items():
        value, (*others, last) = getattr(settings, name), get_args(literal)
        if value not in (*others, last):
            expected = f"{', '.join(others)} or {last}"
            raise ValueError(f"{name}={value!r}, expected {expected}")
