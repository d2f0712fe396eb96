"""The evaluated users of one part and the items they should be shown, as arrays."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, static, struct
from fedjax_rec.evaluation.protocol import Protocol

Pairs = tuple[np.ndarray, np.ndarray]
"""User ids `[n]` and item ids `[n]` of interactions, in any order."""


@struct
class Targets:
    """The `E` users with a positive in one part (validation or test).

    Attributes:
        user: `[E]` int32, ascending.
        positives: `[E, P]` int32, padded with `I`.
        exclude_items: flat int32: item ids that are no candidates, user after user.
        exclude_offset: `[E]` int32, start of a user's excluded items.
        exclude_size: `[E]` int32, number of a user's excluded items.
        candidates: `[E, num_candidates]` int32 sampled negatives, padded with `I` for
            users with fewer untouched items; `None` for full ranking.
        pool: `[I]` bool, the items that are ranked; `None` is every item.
        max_exclude: the largest `exclude_size`, at least 1.
        num_items: `I`.
    """

    user: Array
    positives: Array
    exclude_items: Array
    exclude_offset: Array
    exclude_size: Array
    candidates: Array | None
    pool: Array | None = None
    max_exclude: int = static()
    num_items: int = static()

    @property
    def mask(self) -> Array:
        """`[E]` bool: users with a positive, which count in a mean."""
        return jnp.any(self.positives < self.num_items, axis=-1)


def make_targets(
    *,
    positives: Pairs,
    known: Sequence[Pairs],
    touched: Sequence[Pairs] = (),
    pool: np.ndarray | None = None,
    num_users: int,
    num_items: int,
    protocol: Protocol,
    key: Array | None = None,
    half: int | None = None,
) -> Targets:
    """Lays out the users to evaluate, and draws their candidates if sampled.

    Negatives are drawn uniformly without replacement from the items a user touched in
    no part. They depend on the key, the seed and the user, not on the other users.

    Args:
        positives: held-out interactions to rank; repeats count once.
        known: interactions with items that are no candidates: train, and for the test
            also validation.
        touched: interactions of all parts, for sampled candidates.
        pool: `[n]` ids of the candidates, for `cold`.
        num_users: `U`.
        num_items: `I`.
        protocol: decides how candidates are chosen.
        key: a typed key into which `protocol.candidate_seed` is folded. Leave it out
            (or constant over seeds of training) to rank every model against the same
            negatives.
        half: draws twice the negatives, and takes the first (0) or second (1) half;
            users with fewer untouched items get a part of them.

    Returns:
        The targets, as NumPy arrays.

    Raises:
        ValueError: an index is out of range, a positive is also known, or the part
            holds no interactions.
    """
    wanted = _pack("positives", [positives], num_users, num_items)
    seen = _pack("known", known, num_users, num_items)
    if not len(wanted):
        raise ValueError(
            "the part holds no interactions to evaluate. Check that the split gives "
            "users an item in it"
        )
    _check_unseen(wanted, seen, num_items)
    user, size = np.unique(wanted // num_items, return_counts=True)
    offset, exclude, exclude_size = _rows_of(user, seen, num_items)
    candidates = pool_mask = None
    if protocol.candidates == "cold":
        if pool is None:
            raise ValueError(
                "protocol.candidates='cold' ranks the items a split held out: it needs "
                "split=ColdItems(): --split cold_items"
            )
        pool_mask = np.isin(np.arange(num_items), pool)
        if not pool_mask[wanted % num_items].all():
            raise ValueError("positives lie outside the pool of cold items")
    if protocol.candidates == "sampled":
        every = _pack("touched", touched, num_users, num_items)
        every = np.unique(np.concatenate([every, wanted, seen]))
        base = jax.random.key(0) if key is None else key
        base = jax.random.fold_in(base, protocol.candidate_seed)
        count = protocol.num_candidates * (1 if half is None else 2)
        candidates = _sample(user, every, num_items, count, base).astype(np.int32)
        if half is not None:
            candidates = _halves(candidates, user, jax.random.fold_in(base, num_users))
            candidates = candidates[half]
    padded = np.full((len(user), size.max()), num_items)
    padded[np.arange(size.max()) < size[:, None]] = wanted % num_items
    arrays: Any = {
        "user": user.astype(np.int32),
        "positives": padded.astype(np.int32),
        # One padding entry keeps the gather legal if no user has known items.
        "exclude_items": np.append(exclude, num_items).astype(np.int32),
        "exclude_offset": offset.astype(np.int32),
        "exclude_size": exclude_size.astype(np.int32),
        "candidates": candidates,
        "pool": pool_mask,
    }
    max_exclude = max(int(exclude_size.max()), 1)
    return Targets(**arrays, max_exclude=max_exclude, num_items=num_items)


def _check_unseen(wanted: np.ndarray, seen: np.ndarray, num_items: int) -> None:
    both = np.intersect1d(wanted, seen, assume_unique=True)
    if len(both):
        raise ValueError(
            f"{len(both)} positives are also known, such as item {both[0] % num_items} "
            f"of user {both[0] // num_items}: an item a user has in an earlier part is "
            "no candidate, so it could never be found. Merge repeated interactions "
            "before splitting"
        )


def _pack(
    label: str, parts: Sequence[Pairs], num_users: int, num_items: int
) -> np.ndarray:
    """Sorted distinct `user * I + item`, int64."""
    packed = [np.zeros(0, np.int64)]
    for user, item in parts:
        user, item = np.asarray(user, np.int64), np.asarray(item, np.int64)
        for name, ids, end in (("user", user, num_users), ("item", item, num_items)):
            if len(ids) and (ids.min() < 0 or ids.max() >= end):
                raise ValueError(
                    f"{label}: {name} ids lie in [{ids.min()}, {ids.max()}], expected "
                    f"[0, {end})"
                )
        packed.append(user * num_items + item)
    return np.unique(np.concatenate(packed))


def _rows_of(
    user: np.ndarray, packed: np.ndarray, num_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The items of each of `user [E]` (ascending): offset `[E]`, flat, size `[E]`."""
    flat = packed[np.isin(packed // num_items, user)]
    start = np.searchsorted(flat, user * num_items)
    end = np.searchsorted(flat, (user + 1) * num_items)
    return start, flat % num_items, end - start


def _sample(
    user: np.ndarray, touched: np.ndarray, num_items: int, count: int, key: Array
) -> np.ndarray:
    """`[E, count]` distinct untouched items, uniform, padded with `I`."""
    offset, items, size = _rows_of(user, touched, num_items)
    free = (num_items - size)[:, None]
    ranks = np.where(
        free > count, _subset(user, free, count, key), np.arange(count)[None, :]
    )
    # The j-th untouched item is j plus the touched items before it: the i-th touched
    # item is one if its id minus i is at most j. One search serves all users.
    row = np.arange(len(user))
    shifted = items - (np.arange(len(items)) - np.repeat(offset, size))
    shifted = np.repeat(row, size) * (num_items + 1) + shifted
    query = row[:, None] * (num_items + 1) + ranks
    before = np.searchsorted(shifted, query.ravel(), side="right").reshape(query.shape)
    return np.where(ranks < free, ranks + before - offset[:, None], num_items)


def _subset(user: np.ndarray, free: np.ndarray, count: int, key: Array) -> np.ndarray:
    """`[E, count]` distinct ranks below `free [E, 1]` by Floyd's algorithm.

    References:
        Bentley and Floyd, "A sample of brilliance", CACM 1987.
    """
    last = np.maximum(free - count, 0) + np.arange(count)
    drawn = _draw(key, jnp.asarray(user, jnp.int32), jnp.asarray(last, jnp.int32))
    chosen = np.array(drawn, np.int64)
    for i in range(1, count):
        taken = (chosen[:, :i] == chosen[:, i : i + 1]).any(axis=1)
        chosen[:, i] = np.where(taken, last[:, i], chosen[:, i])
    return chosen


def _halves(
    candidates: np.ndarray, user: np.ndarray, key: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Two random halves of each row; the columns of a sample are in no random order."""
    last = jnp.full(candidates.shape, np.iinfo(np.int32).max - 1, jnp.int32)
    order = np.argsort(_draw(key, jnp.asarray(user, jnp.int32), last), axis=1)
    first, second = np.split(np.take_along_axis(candidates, order, axis=1), 2, axis=1)
    return first, second


@jax.jit
def _draw(key: Array, user: Array, last: Array) -> Array:
    """`[E, count]` uniform in `[0, last]`, from one key a user."""

    def row(user: Array, last: Array) -> Array:
        key_ = jax.random.fold_in(key, user)
        return jax.random.randint(key_, last.shape, 0, last + 1, dtype=jnp.int32)

    return jax.vmap(row)(user, last)
