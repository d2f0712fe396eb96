"""Which paths of a backbone an adapter is put on."""

from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase


def matching(patterns: Iterable[str], paths: Collection[str], what: str) -> list[str]:
    """The `paths` that a pattern matches, in their own order.

    Args:
        patterns: as for a shell; `*` also matches `/`.
        paths: what there is.
        what: the patterns' name in errors.

    Raises:
        ValueError: a pattern matches nothing, or there is no pattern.

    >>> matching(["attention/*"], ["attention/query", "ffn/up"], "targets")
    ['attention/query']
    """
    if isinstance(patterns, str):
        # Else each letter would be a pattern of its own.
        patterns = (patterns,)
    patterns = tuple(patterns)
    there_are = f"expected patterns that match some of: {', '.join(paths)}"
    if not patterns:
        raise ValueError(f"{what} is empty; {there_are}")
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise ValueError(f"{what} has {pattern!r}, which matches none; {there_are}")
    return [p for p in paths if any(fnmatchcase(p, pattern) for pattern in patterns)]
