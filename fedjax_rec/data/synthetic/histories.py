"""How much each user does, when, and with what: no pair twice."""

from collections.abc import Callable

import numpy as np

_TASTE_ROUNDS = 6
"""Tries a slot has to find a new item by taste before any new item will do."""


def activity(
    rng: np.random.Generator,
    num_users: int,
    num_interactions: int,
    most: int,
    exponent: float,
) -> np.ndarray:
    """`[U]` interactions a user: a few each, the rest by a power law of a random rank.

    Args:
        rng: source of randomness.
        num_users: `U`.
        num_interactions: their sum.
        most: bound of each; `U * most` is at least the sum.
        exponent: of the law.
    """
    weight = rng.permutation(np.arange(1, num_users + 1) ** -exponent)
    # Five each, where there are as many, leave a history after leave-one-out.
    size = np.full(num_users, min(5, most, num_interactions // num_users), np.int64)
    left = num_interactions - int(size.sum())
    while left > 0:
        room = most - size
        share = np.where(room > 0, weight, 0)
        extra = np.minimum((left * share / share.sum()).astype(np.int64), room)
        if left < num_users:
            # Rounding down would take many turns: one to each of the most active.
            extra = np.zeros(num_users, np.int64)
            extra[np.argsort(-share, kind="stable")[:left]] = 1
            extra = np.minimum(extra, room)
        size += extra
        left -= int(extra.sum())
    return size


def moments(
    rng: np.random.Generator, size: np.ndarray, start: int, span: int
) -> tuple[np.ndarray, np.ndarray]:
    """When each interaction happens: users join, stay a while, and leave.

    Args:
        rng: source of randomness.
        size: `[U]` interactions of each user, `n` together.
        start: the first second.
        span: seconds from the first to about the last.

    Returns:
        `[n]` int64 timestamps, strictly increasing within each user, users in order,
        and `[n]` in `[0, 1)`, the share of the user's stay gone by.
    """
    num_users = len(size)
    user = np.repeat(np.arange(num_users), size)
    offset = np.cumsum(size) - size
    joins = rng.random(num_users) * 0.8
    stays = (1 - joins) * rng.beta(1.5, 1.5, num_users)
    # Sums of exponential gaps, over their total, are sorted uniforms: no sort needed.
    gaps = rng.exponential(size=len(user))
    total = np.concatenate([[0.0], np.cumsum(gaps)])
    before = total[offset]
    whole = total[offset + size] - before + rng.exponential(size=num_users)
    gone = (total[1:] - before[user]) / whole[user]
    seconds = (joins[user] + stays[user] * gone) * span
    # A second more for each earlier interaction makes the increase strict.
    place = np.arange(len(user)) - offset[user]
    return start + seconds.astype(np.int64) + place, gone


def choose_items(
    rng: np.random.Generator,
    user: np.ndarray,
    num_items: int,
    propose: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, int]:
    """An item for each slot, such that no user meets an item twice.

    Slots propose items until they find a new one. Users with few new ones left would
    try for ever, so after some rounds the rest draws uniformly from what its user has
    not met.

    Args:
        rng: source of randomness.
        user: `[n]`, the user of each slot, ascending.
        num_items: `I`, at least the largest number of slots of a user.
        propose: `(slots [k]) -> items [k]`.

    Returns:
        `[n]` int64 items, and how many were drawn uniformly in the end.
    """
    item = np.empty(len(user), np.int64)
    pending = np.arange(len(user))
    taken = np.empty(0, np.int64)
    uniform = 0
    for turn in range(len(user)):
        if not len(pending):
            break
        if turn == _TASTE_ROUNDS:
            uniform = len(pending)
        if turn < _TASTE_ROUNDS:
            proposed = propose(pending)
        else:
            proposed = _any_new(rng, user[pending], taken, num_items)
        pair = user[pending].astype(np.int64) * num_items + proposed
        found, first = np.unique(pair, return_index=True)
        if len(taken):
            place = np.minimum(np.searchsorted(taken, found), len(taken) - 1)
            new = taken[place] != found
            found, first = found[new], first[new]
        item[pending[first]] = proposed[first]
        # Both are sorted: the stable sort merges them.
        taken = np.sort(np.concatenate([taken, found]), kind="stable")
        waits = np.ones(len(pending), bool)
        waits[first] = False
        pending = pending[waits]
    return item, uniform


def _any_new(
    rng: np.random.Generator, user: np.ndarray, taken: np.ndarray, num_items: int
) -> np.ndarray:
    """`[k]` items uniform over what each user has not taken.

    A rank `j` among the new items is item `j + #{i: taken_i - i <= j}`.
    """
    owner, met = np.divmod(taken, num_items)
    start = np.searchsorted(owner, user)
    count = np.searchsorted(owner, user, side="right") - start
    first = np.searchsorted(owner, owner)
    below = met - (np.arange(len(taken)) - first) + owner * (num_items + 1)
    rank = (rng.random(len(user)) * (num_items - count)).astype(np.int64)
    key = rank + user.astype(np.int64) * (num_items + 1)
    return rank + np.searchsorted(below, key, side="right") - start
