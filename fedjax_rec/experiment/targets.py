"""What is to be found in each part of a split."""

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
    parts = [part for part in ("val", "test") if len(getattr(split, part))]
    found = _same_shapes([_of_part(split, protocol, part) for part in parts])
    return dict(zip(parts, found, strict=True))


def _of_part(split: Split, protocol: Protocol, part: str) -> Targets:
    known = [split.train] + ([split.val] if part == "test" else [])
    pairs = {
        name: (getattr(split, name).user, getattr(split, name).item)
        for name in ("train", "val", "test")
    }
    if (query := split.info.get("query")) is not None:  # shown of held-out users
        known.append(query)
        pairs["query"] = (query.user, query.item)
    if protocol.max_users:
        some = _drawn_users(pairs[part][0], split.train.num_users, protocol)
        pairs = {name: _of_users(some, *rows) for name, rows in pairs.items()}
    else:
        some = None
    cold = protocol.candidates == "cold"
    key = keys.derive(
        jax.random.key(0), keys.Purpose.EVALUATION, 0 if part == "val" else 1
    )
    return make_targets(
        positives=pairs[part],
        known=[_of_users(some, p.user, p.item) for p in known],
        touched=list(pairs.values()),
        pool=split.info.get(f"{part}_items") if cold else None,
        num_users=split.train.num_users,
        num_items=split.train.num_items,
        protocol=protocol,
        key=key,
    )


def _drawn_users(user: np.ndarray, num_users: int, protocol: Protocol) -> np.ndarray:
    """`[U]` bool: the users evaluated of those with something to find."""
    order = np.random.default_rng(protocol.candidate_seed).permutation(num_users)
    wanted = np.zeros(num_users, bool)
    wanted[user] = True
    chosen = np.zeros(num_users, bool)
    chosen[order[wanted[order]][: protocol.max_users]] = True
    return chosen


def _of_users(some: np.ndarray | None, user: np.ndarray, item: np.ndarray):
    """The interactions of some users; `None` is everybody."""
    if some is None:
        return user, item
    here = some[user]
    return user[here], item[here]


def _no_exclusions(users: int) -> dict[str, Any]:
    nothing = np.zeros(users, np.int32)
    return {"exclude_offset": nothing, "exclude_size": nothing}


def _same_shapes(parts: list[Targets]) -> list[Targets]:
    """Pads targets so that one compiled evaluation serves validation and test.

    Under sampled candidates nothing is excluded by id, so exclusions are dropped.
    """
    if not parts:
        return []
    if all(part.candidates is not None for part in parts):
        parts = [
            dataclasses.replace(
                part,
                exclude_items=part.exclude_items[-1:],
                max_exclude=1,
                **_no_exclusions(len(part.user)),
            )
            for part in parts
        ]
    flat = max(len(part.exclude_items) for part in parts)
    width = max(part.positives.shape[1] for part in parts)
    exclude = max(part.max_exclude for part in parts)

    def pad(array: Any, axis: int, length: int, value: int) -> Any:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, length - array.shape[axis])
        return np.pad(array, widths, constant_values=value)

    return [
        dataclasses.replace(
            part,
            positives=pad(part.positives, 1, width, part.num_items),
            exclude_items=pad(part.exclude_items, 0, flat, part.num_items),
            max_exclude=exclude,
        )
        for part in parts
    ]
