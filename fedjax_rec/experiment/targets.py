"""The items to be found in each part of a split."""

import dataclasses
from typing import Any

import jax
import numpy as np

from fedjax_rec.core import keys
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets, make_targets


def targets_of(split: Split, protocol: Protocol) -> dict[str, Targets]:
    """The targets of `val` and `test`, if there are any, in arrays of the same shapes.

    Raises:
        ValueError: see `make_targets`.
    """
    names = [part for part in ("val", "test") if len(getattr(split, part))]
    parts = _same_shapes([_of_part(split, protocol, part) for part in names])
    return dict(zip(names, parts, strict=True))


def _of_part(split: Split, protocol: Protocol, part: str) -> Targets:
    parts = {name: getattr(split, name) for name in ("train", "val", "test")}
    seen = ["train"] + (["val"] if part == "test" else [])
    if (query := split.info.get("query")) is not None:  # shown of held-out users
        parts["query"] = query
        seen.append("query")
    pairs = {name: (rows.user, rows.item) for name, rows in parts.items()}
    if protocol.max_users:
        chosen = _drawn_users(pairs[part][0], split.train.num_users, protocol)
        pairs = {name: (u[chosen[u]], i[chosen[u]]) for name, (u, i) in pairs.items()}
    number = 0 if part == "val" else 1
    return make_targets(
        positives=pairs[part],
        known=[pairs[name] for name in seen],
        touched=list(pairs.values()),
        pool=split.info.get(f"{part}_items") if protocol.candidates == "cold" else None,
        num_users=split.train.num_users,
        num_items=split.train.num_items,
        protocol=protocol,
        key=keys.derive(jax.random.key(0), keys.Purpose.EVALUATION, number),
    )


def _drawn_users(user: np.ndarray, num_users: int, protocol: Protocol) -> np.ndarray:
    """`[U]` bool: users to evaluate, drawn from those with an item to find."""
    order = np.random.default_rng(protocol.candidate_seed).permutation(num_users)
    wanted = np.zeros(num_users, bool)
    wanted[user] = True
    chosen = np.zeros(num_users, bool)
    chosen[order[wanted[order]][: protocol.max_users]] = True
    return chosen


def _same_shapes(parts: list[Targets]) -> list[Targets]:
    """Pads targets so that one compiled evaluation serves validation and test.

    Sampled candidates exclude no items by id, so their exclusions are dropped.
    """
    if not parts:
        return []
    if all(part.candidates is not None for part in parts):
        parts = [_without_exclusions(part) for part in parts]
    flat = max(len(part.exclude_items) for part in parts)
    width = max(part.positives.shape[1] for part in parts)
    most = max(part.max_exclude for part in parts)

    def pad(array: Any, axis: int, length: int, value: int) -> Any:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, length - array.shape[axis])
        return np.pad(array, widths, constant_values=value)

    return [
        dataclasses.replace(
            part,
            positives=pad(part.positives, 1, width, part.num_items),
            exclude_items=pad(part.exclude_items, 0, flat, part.num_items),
            max_exclude=most,
        )
        for part in parts
    ]


def _without_exclusions(part: Targets) -> Targets:
    zeros = np.zeros(len(part.user), np.int32)
    return dataclasses.replace(
        part,
        exclude_items=part.exclude_items[-1:],
        max_exclude=1,
        exclude_offset=zeros,
        exclude_size=zeros,
    )
