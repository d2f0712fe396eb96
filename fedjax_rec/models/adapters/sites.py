"""Sites that an adapter attaches to, and hooks without effect for the others."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase
from typing import Any


def matching(patterns: Iterable[str], paths: Collection[str], what: str) -> list[str]:
    """Returns the `paths` that match a pattern, in their own order.

    Args:
        patterns: shell patterns; `*` also matches `/`.
        paths: all paths of the backbone.
        what: name of the patterns in errors.

    Raises:
        ValueError: a pattern matches no path, or there is no pattern.

    >>> matching(["attention/*"], ["attention/query", "ffn/up"], "targets")
    ['attention/query']
    """
    # Otherwise each letter would be a pattern.
    patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    expected = f"expected patterns that match some of: {', '.join(paths)}"
    if not patterns:
        raise ValueError(f"{what} is empty; {expected}")
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(f"{what} has {pattern!r}, which matches none; {expected}")
    return [p for p in paths if any(fnmatchcase(p, pattern) for pattern in patterns)]


def check_at_least(settings: Any, **bounds: int) -> None:
    """Raises a ValueError if a field of `settings` is below its bound."""
    for name, bound in bounds.items():
        if getattr(settings, name) < bound:
            value = getattr(settings, name)
            raise ValueError(f"{name} must be at least {bound}, got {value}")


def same_linear(params: Any, path: str, x: Any, y: Any) -> Any:
    """Returns the output `y` of the linear map at `path`."""
    return y


def same_block(params: Any, path: str, y: Any) -> Any:
    """Returns the output `y` of the sublayer at `path`."""
    return y


def no_prefix(params: Any) -> None:
    """Returns no pairs to attend to."""
