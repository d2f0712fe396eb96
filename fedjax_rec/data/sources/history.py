"""Dropping what is too little to learn from, and counting it."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.storage.errors import FileError


def require_history(interactions: Interactions, minimum: int) -> Interactions:
    """Drops the users with fewer than `minimum` interactions.

    Users without any interaction are always dropped, since such a client could neither
    train nor be evaluated. The remaining users keep their order and are numbered anew;
    items stay, whether or not somebody is left who knows them.

    Args:
        interactions: all of them.
        minimum: the least number of interactions a user needs, after merging.

    Returns:
        The rest; `notes` counts `users_without_interactions`,
        `users_below_min_interactions` and `interactions_of_dropped_users`.

    Raises:
        FileError: nobody is left, or `minimum` is negative.
    """
    if minimum < 0:
        raise FileError(f"min_interactions is {minimum}", expected="0 or more")
    counts = np.bincount(interactions.user, minlength=interactions.num_users)
    empty = counts == 0
    short = ~empty & (counts < minimum)
    notes = {}
    if empty.any():
        notes["users_without_interactions"] = int(empty.sum())
    if short.any():
        notes["users_below_min_interactions"] = int(short.sum())
        notes["interactions_of_dropped_users"] = int(counts[short].sum())
    kept = ~(empty | short)
    if not kept.any():
        most = int(counts.max()) if len(counts) else 0
        raise FileError(
            f"{interactions.name}: no user has {max(minimum, 1)} interactions, the "
            f"longest history has {most}",
            fix="Lower min_interactions or min_rating",
        )
    if not notes:
        return interactions
    rest = interactions.take(kept[interactions.user])
    renumbered = np.cumsum(kept) - 1
    return dataclasses.replace(
        rest,
        user=renumbered[rest.user].astype(np.int32),
        users=_select(interactions.users, kept),
        notes=add_counts(interactions.notes, notes),
    )


def require_rating(interactions: Interactions, minimum: float) -> Interactions:
    """Drops interactions rated below `minimum`; counts `below_min_rating`.

    It looks at the rating a repeated pair was merged to: the user's last word.
    """
    try:
        low = interactions.rating < float(minimum)
    except ValueError as error:
        raise FileError(f"min_rating is {minimum!r}", expected="a number") from error
    return dataclasses.replace(
        interactions.take(~low),
        notes=add_counts(interactions.notes, {"below_min_rating": int(low.sum())}),
    )


def add_counts(notes: Mapping[str, int], more: Mapping[str, int]) -> dict[str, int]:
    """`notes` with the counts of `more` added."""
    return {**notes, **{k: notes.get(k, 0) + count for k, count in more.items()}}


def _select(entities: Entities, kept: np.ndarray) -> Entities:
    where = np.flatnonzero(kept).tolist()
    titles = entities.titles
    return Entities(
        ids=[entities.ids[i] for i in where],
        titles=None if titles is None else [titles[i] for i in where],
        attributes={k: [v[i] for i in where] for k, v in entities.attributes.items()},
    )
