"""Smaller data sets: without short histories or low ratings, or a slice of one."""

import dataclasses
from typing import Literal

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.storage.errors import FileError


def require_history(data: Interactions, minimum: int) -> Interactions:
    """Drops the users with fewer than `minimum` interactions.

    Users without any interaction are always dropped: such a client could neither train
    nor be evaluated. The other users are renumbered in their old order. All items stay.

    Args:
        data: All interactions.
        minimum: Least number of interactions per user, after merging.

    Returns:
        The remaining interactions; `notes` counts `users_without_interactions`,
        `users_below_min_interactions` and `interactions_of_dropped_users`.

    Raises:
        FileError: No user remains, or `minimum` is negative.
    """
    if minimum < 0:
        raise FileError(f"min_interactions is {minimum}", expected="0 or more")
    counts = np.bincount(data.user, minlength=data.num_users)
    longest = int(counts.max(initial=0))
    if longest < max(minimum, 1):
        raise FileError(
            f"{data.name}: no user has {max(minimum, 1)} interactions, the longest "
            f"history has {longest}. Lower min_interactions or min_rating"
        )
    empty = counts == 0
    short = ~empty & (counts < minimum)
    if not (empty | short).any():
        return data
    notes = {}
    if empty.any():
        notes["users_without_interactions"] = int(empty.sum())
    if short.any():
        notes["users_below_min_interactions"] = int(short.sum())
        notes["interactions_of_dropped_users"] = int(counts[short].sum())
    remaining = _drop_unused(data.take(~short[data.user]), "user")
    return _with_counts(remaining, notes)


def require_rating(data: Interactions, minimum: float) -> Interactions:
    """Drops interactions rated below `minimum` and counts them as `below_min_rating`.

    For a repeated pair, the merged rating counts, which is the user's latest.
    """
    try:
        low = data.rating < float(minimum)
    except ValueError as error:
        raise FileError(f"min_rating is {minimum!r}", expected="a number") from error
    return _with_counts(data.take(~low), {"below_min_rating": int(low.sum())})


def subset(
    data: Interactions,
    *,
    top_items: int | None = None,
    first_users: int | None = None,
    min_interactions: int = 0,
) -> Interactions:
    """Keeps popular items and early users, then the users with enough interactions.

    Used for quick trials and for small published settings. Users and items are
    renumbered in their old order.

    Args:
        data: All interactions.
        top_items: Number of items with the most interactions (ties: first in file
            order); `None` keeps all.
        first_users: Number of users with the lowest ids (numeric if all ids are
            numbers), chosen before anything is dropped; `None` keeps all.
        min_interactions: Users with fewer interactions with these items are dropped.

    Returns:
        The slice; `notes` counts the users and interactions outside it.

    Raises:
        ValueError: No interactions remain.
    """
    inside = np.ones(len(data), bool)
    if top_items is not None:
        counts = np.bincount(data.item, minlength=data.num_items)
        first_seen = np.full(data.num_items, np.iinfo(np.int64).max)
        np.minimum.at(first_seen, data.item, data.position)
        ranked = np.lexsort((first_seen, -counts))
        inside &= np.isin(data.item, ranked[:top_items])
    if first_users is not None:
        ids = data.users.ids
        keys = [int(x) for x in ids] if all(map(str.isdigit, ids)) else list(ids)
        order = sorted(range(len(ids)), key=keys.__getitem__)
        inside &= np.isin(data.user, order[:first_users])
    counts = np.bincount(data.user[inside], minlength=data.num_users)
    inside &= counts[data.user] >= min_interactions
    if not inside.any():
        raise ValueError(
            f"top_items={top_items}, first_users={first_users} and min_interactions="
            f"{min_interactions} leave no interactions of {data.name!r}"
        )
    result = _drop_unused(_drop_unused(data.take(inside), "user"), "item")
    notes = {
        "interactions_outside_subset": len(data) - len(result),
        "users_outside_subset": data.num_users - result.num_users,
    }
    return dataclasses.replace(result, notes={**data.notes, **notes})


def _drop_unused(data: Interactions, role: Literal["user", "item"]) -> Interactions:
    """Removes the users or items without interactions and renumbers the others."""
    used, index = np.unique(getattr(data, role), return_inverse=True)
    entities = getattr(data, f"{role}s").take(used)
    columns = {role: index.astype(np.int32), f"{role}s": entities}
    return dataclasses.replace(data, **columns)


def _with_counts(data: Interactions, counts: dict[str, int]) -> Interactions:
    total = {name: data.notes.get(name, 0) + count for name, count in counts.items()}
    return dataclasses.replace(data, notes={**data.notes, **total})
