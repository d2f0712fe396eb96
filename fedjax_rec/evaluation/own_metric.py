"""A further metric of the protocol: its names, and checks of its settings."""

import re
from collections.abc import Collection
from typing import Any

_NAME = re.compile(r"[A-Za-z][\w.-]*(@\d+)?")
_RESERVED = ("user", "round", "file", "last", "auto")
"""Names of other arrays in `users.npz`, and of other values of `selection`."""


def names_of(metric: Any) -> tuple[str, ...]:
    """Names of the results of a metric; none without a metric."""
    return () if metric is None else tuple(metric.names)


def lower_is_better(metric: Any) -> tuple[str, ...]:
    """Those of the names with a low value for a good ranking."""
    return tuple(getattr(metric, "lower_is_better", ()))


def check(metric: Any, taken: Collection[str]) -> None:
    """Checks the settings of a metric.

    Args:
        metric: the settings.
        taken: names of other metrics.

    Raises:
        TypeError: they lack an attribute, or cannot be hashed.
        ValueError: a name is taken or is no name.
    """
    cls = type(metric).__name__
    if isinstance(metric, type):
        raise TypeError(
            f"metric={metric.__name__} is a class: call {metric.__name__}()"
        )
    missing = [name for name in ("names", "build") if not hasattr(metric, name)]
    if missing:
        raise TypeError(
            f"metric={metric!r} has no {' and no '.join(missing)}; expected a frozen "
            "dataclass such as Novelty(), with `names`, a tuple of names of results, "
            "and `build(train)`, which returns a function of one user's ranking"
        )
    try:
        hash(metric)
    except TypeError as error:
        raise TypeError(
            f"metric={cls}(...) cannot be hashed: {error}. Declare it with "
            "@dataclasses.dataclass(frozen=True), and use tuples in place of lists"
        ) from error
    names = metric.names
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise ValueError(
            f"{cls}.names={names!r}: expected a tuple of distinct names, such as "
            "('novelty@10',)"
        )
    for name in names:
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise ValueError(
                f"{cls}.names has {name!r}: expected letters, digits, `_`, `.` and "
                "`-`, then `@` and a cut-off if there is one, such as 'novelty@10'"
            )
        if name in taken or name in _RESERVED or name.startswith("exposure@"):
            raise ValueError(f"{cls}.names has {name!r}, which is taken: rename it")
    if unknown := set(lower_is_better(metric)) - set(names):
        raise ValueError(
            f"{cls}.lower_is_better has {', '.join(sorted(unknown))}, which is not "
            f"among names={tuple(names)}"
        )
