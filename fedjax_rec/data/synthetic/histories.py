"""Tastes of users and items, and the histories that follow from them."""

from collections.abc import Callable

import numpy as np

from fedjax_rec.data.synthetic.entities import NO_TASTE

# Attempts of a slot to find a new item by taste before it takes any new item.
_TASTE_ROUNDS = 6


def item_tastes(
    rng: np.random.Generator, num_items: int, num_tastes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws `[I]` main tastes, some more frequent than others, and `[I]` second ones.

    Every taste has an item; a quarter of the items have a second taste.
    """
    share = np.arange(1, num_tastes + 1) ** -0.3
    taste = rng.choice(num_tastes, num_items, p=share / share.sum())
    taste[rng.permutation(num_items)[:num_tastes]] = np.arange(num_tastes)
    second = np.full(num_items, NO_TASTE)
    if num_tastes > 1:
        step = rng.integers(1, num_tastes, num_items)
        has_second = rng.random(num_items) < 1 / 4
        second[has_second] = ((taste + step) % num_tastes)[has_second]
    return taste, second


class TasteDraws:
    """Draws tastes from users' mixtures, by inversion in one flat sorted array.

    Args:
        mixture: `[U, T]`, rows sum to 1.
    """

    def __init__(self, mixture: np.ndarray):
        num_users, self._num_tastes = mixture.shape
        below = np.cumsum(mixture, axis=1)
        below[:, -1] = 1  # rounding must not let a draw pass into the next user's row
        self._below = (below + np.arange(num_users)[:, None]).ravel()

    def __call__(self, user: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Returns `[k]` tastes of `user` `[k]` at `uniform` `[k]` in `[0, 1)`."""
        place = np.searchsorted(self._below, user + uniform, side="right")
        # user + uniform may round up to user + 1.
        return np.minimum(place - user * self._num_tastes, self._num_tastes - 1)


class ItemDraws:
    """Draws items of a taste in proportion to their weights.

    Args:
        taste: `[I]` main taste of each item.
        second: `[I]` second taste, which counts half.
        weight: `[I]` weight of each item.
        num_tastes: `T`; as a taste, `T` itself means any.
    """

    def __init__(
        self, taste: np.ndarray, second: np.ndarray, weight: np.ndarray, num_tastes: int
    ):
        shares = [
            weight * ((taste == t) + 0.5 * (second == t)) for t in range(num_tastes)
        ]
        self._shelves = []
        for share in [*shares, weight]:
            # Heavy items first: most draws then end in the same few cache lines.
            items = np.argsort(-share, kind="stable")[: np.count_nonzero(share)]
            self._shelves.append((items, np.cumsum(share[items])))

    def __call__(self, rng: np.random.Generator, wanted: np.ndarray) -> np.ndarray:
        """Returns `[k]` items, one for each taste in `wanted`."""
        item = np.empty(len(wanted), np.int64)
        for t, (items, below) in enumerate(self._shelves):
            slots = np.flatnonzero(wanted == t)
            place = np.searchsorted(below, rng.random(len(slots)) * below[-1], "right")
            item[slots] = items[np.minimum(place, len(items) - 1)]
        return item


def activity(
    rng: np.random.Generator,
    num_users: int,
    num_interactions: int,
    most: int,
    exponent: float,
) -> np.ndarray:
    """Draws the number of interactions of each user by a power law of a random rank.

    Args:
        rng: Source of randomness.
        num_users: `U`.
        num_interactions: Sum of all users.
        most: Maximum per user; `U * most` is at least the sum.
        exponent: Exponent of the law.

    Returns:
        `[U]` numbers, at least five each if there are as many interactions.
    """
    weight = rng.permutation(np.arange(1, num_users + 1) ** -exponent)
    # Five interactions leave a history after leave-one-out.
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
    """Draws the time of each interaction: users join, stay a while, and leave.

    Args:
        rng: Source of randomness.
        size: `[U]` interactions of each user, `n` in total.
        start: The first second.
        span: Approximate number of seconds from the first to the last.

    Returns:
        `[n]` int64 timestamps, strictly increasing within each user, users in order,
        and the elapsed share of the user's stay, `[n]` in `[0, 1)`.
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
    length = total[offset + size] - before + rng.exponential(size=num_users)
    elapsed = (total[1:] - before[user]) / length[user]
    seconds = (joins[user] + stays[user] * elapsed) * span
    # One more second for each earlier interaction makes the increase strict.
    place = np.arange(len(user)) - offset[user]
    return start + seconds.astype(np.int64) + place, elapsed


def choose_items(
    rng: np.random.Generator,
    user: np.ndarray,
    num_items: int,
    propose: Callable[[np.ndarray], np.ndarray],
) -> tuple[np.ndarray, int]:
    """Chooses an item for each slot such that no user gets an item twice.

    Slots propose items until they find a new one. Users with few new items left could
    try forever, so after some rounds the remaining slots draw uniformly from the items
    that are new to their user.

    Args:
        rng: Source of randomness.
        user: `[n]` user of each slot, ascending.
        num_items: `I`, at least the largest number of slots of a user.
        propose: `(slots [k]) -> items [k]`.

    Returns:
        `[n]` int64 items, and the number of slots that drew uniformly.
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
        pairs, first = np.unique(pair, return_index=True)
        if len(taken):
            place = np.minimum(np.searchsorted(taken, pairs), len(taken) - 1)
            new = taken[place] != pairs
            pairs, first = pairs[new], first[new]
        item[pending[first]] = proposed[first]
        # Both are sorted: the stable sort merges them.
        taken = np.sort(np.concatenate([taken, pairs]), kind="stable")
        pending = np.delete(pending, first)
    return item, uniform


def _any_new(
    rng: np.random.Generator, user: np.ndarray, taken: np.ndarray, num_items: int
) -> np.ndarray:
    """Draws `[k]` items uniformly from those that each user has not taken.

    A rank `j` among the new items is item `j + #{i: taken_i - i <= j}`.
    """
    owner, old = np.divmod(taken, num_items)
    start = np.searchsorted(owner, user)
    count = np.searchsorted(owner, user, side="right") - start
    first = np.searchsorted(owner, owner)
    below = old - (np.arange(len(taken)) - first) + owner * (num_items + 1)
    rank = (rng.random(len(user)) * (num_items - count)).astype(np.int64)
    key = rank + user.astype(np.int64) * (num_items + 1)
    return rank + np.searchsorted(below, key, side="right") - start
