"""A slice of a data set, for a quick look or a published small setting."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from fedjax_rec.data.interactions import Entities, Interactions


def subset(
    data: Interactions,
    *,
    top_items: int | None = None,
    first_users: int | None = None,
    min_interactions: int = 0,
) -> Interactions:
    """Keeps popular items, early users, and of those the users with enough left.

    Users and items are numbered anew, in their old order.

    Args:
        data: all interactions.
        top_items: the items with most interactions (ties: first seen in file order);
            `None` keeps all.
        first_users: the users of lowest id (as numbers where ids are numbers), chosen
            before anything is dropped; `None` keeps all.
        min_interactions: users with fewer among the kept items are dropped.

    Returns:
        The slice; `notes` counts the users and interactions that fell out.

    Raises:
        ValueError: nothing is left.
    """
    keep = np.ones(len(data), bool)
    if top_items is not None:
        counts = np.bincount(data.item, minlength=data.num_items)
        first_seen = np.full(data.num_items, np.iinfo(np.int64).max)
        np.minimum.at(first_seen, data.item, data.position)
        ranked = np.lexsort((first_seen, -counts))
        keep &= np.isin(data.item, ranked[:top_items])
    if first_users is not None:
        ids = data.users.ids
        keys = [int(x) for x in ids] if all(map(str.isdigit, ids)) else list(ids)
        order = sorted(range(len(ids)), key=keys.__getitem__)
        keep &= np.isin(data.user, order[:first_users])
    counts = np.bincount(data.user[keep], minlength=data.num_users)
    keep &= counts[data.user] >= min_interactions
    if not keep.any():
        raise ValueError(
            f"no interactions of {data.name!r} are left with top_items={top_items}, "
            f"first_users={first_users}, min_interactions={min_interactions}"
        )
    kept = data.take(keep)
    users, user = np.unique(kept.user, return_inverse=True)
    items, item = np.unique(kept.item, return_inverse=True)
    notes = {
        **data.notes,
        "interactions_outside_subset": len(data) - len(kept),
        "users_outside_subset": data.num_users - len(users),
    }
    return dataclasses.replace(
        kept,
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        users=_take(data.users, users),
        items=_take(data.items, items),
        notes=notes,
    )


def _take(entities: Entities, at: np.ndarray) -> Entities:
    def pick(values: Sequence[str]) -> list[str]:
        return [str(values[i]) for i in at]

    return Entities(
        ids=pick(entities.ids),
        titles=None if entities.titles is None else pick(entities.titles),
        attributes={k: pick(v) for k, v in entities.attributes.items()},
    )
