"""Metrics of each user, kept so that systems can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:  # imports JAX, which the command line loads only when a run begins
    from fedjax_rec.evaluation.targets import Targets


class PerUser(NamedTuple):
    """Metrics of the evaluated users of a part after some round.

    Attributes:
        round: finished rounds.
        user: `[E]` ids as spelled in the source.
        metrics: metric name to `[E]` float32.
    """

    round: int
    user: np.ndarray
    metrics: dict[str, np.ndarray]


def in_order(
    position: np.ndarray, metrics: Mapping[str, Any], ids: Sequence[str], round_: int
) -> PerUser:
    """Metrics in the order of a part's users.

    Args:
        position: `[n]` each slot's position among the part's users; -1 is padding.
        metrics: metric name to `[n]`.
        ids: `[E]` ids of the part's users.
        round_: finished rounds.
    """
    real = position >= 0
    columns = {}
    for name, values in metrics.items():
        column = np.full(len(ids), np.nan, np.float32)
        column[position[real]] = np.asarray(values)[real]
        columns[name] = column
    return PerUser(round_, np.asarray(ids, dtype=str), columns)


def write(path: Path, users: PerUser) -> None:
    """Writes the arrays `user` and `round`, and one array for each metric."""
    with path.open("wb") as file:
        np.savez(file, user=users.user, round=users.round, **users.metrics)  # pyright: ignore[reportArgumentType]


def read(path: Path) -> PerUser:
    """Reads what `write` wrote.

    Raises:
        OSError, ValueError, KeyError: the file is absent or broken.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    round_, user = int(arrays.pop("round")), arrays.pop("user")
    return PerUser(round_, user, arrays)


def ranked(targets: Targets, users: Sequence[str], items: Sequence[str]) -> dict:
    """The users, their positives and candidates: equal if results can be paired."""
    fields = {
        "user": np.asarray(users, dtype=str),
        "item": np.asarray(items, dtype=str),
        "positives": np.asarray(targets.positives),
        "exclude_items": np.asarray(targets.exclude_items),
        "exclude_size": np.asarray(targets.exclude_size),
        "candidates": targets.candidates,
        "pool": targets.pool,
    }
    return {name: x for name, x in fields.items() if x is not None}
