"""Disjoint parts of a data set, and the functions that all splits share."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from etils import epy

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.data.interactions import Interactions

with epy.lazy_imports():
    import jax
    import numpy as np

    from fedjax_rec.core import keys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A data set in disjoint parts, which all have the users and items of the data.

    Attributes:
        train: Interactions that clients hold.
        val: Interactions for the selection of a round.
        test: Interactions for the reported metrics.
        name: Name of the split with its options.
        info: Facts for the evaluation. Always `test_users_without_train` and
            `test_items_without_train` (counts); the splits document further ones.
            `ColdUsers` stores a fourth part here, `query`.
        by_time: Whether the order of the interactions in time decides their part.
    """

    train: Interactions
    val: Interactions
    test: Interactions
    name: str
    info: dict[str, Any]
    by_time: bool = True


def split_by(
    data: Interactions,
    *,
    test: np.ndarray,
    name: str,
    val: np.ndarray | None = None,
    info: dict[str, Any] | None = None,
    query: np.ndarray | None = None,
    by_time: bool = True,
) -> Split:
    """Splits interactions by masks; those that are in none are train.

    Args:
        data: All interactions.
        test: `[n]` bool, the interactions for the test.
        name: Name of the split with its options.
        val: `[n]` bool, those for validation; `None` for no validation, which needs
            `protocol.selection="last"`.
        info: See `Split`.
        query: `[n]` bool, the interactions shown of users that are held out.
        by_time: See `Split`.

    Raises:
        ValueError: A mask is no `[n]` bool, or two masks overlap.
    """
    if val is None:
        val = np.zeros(len(data), bool)
    masks = {"val": val, "test": test, "query": query}
    masks = {part: np.asarray(m) for part, m in masks.items() if m is not None}
    for part, mask in masks.items():
        if mask.shape != (len(data),) or mask.dtype != bool:
            raise ValueError(
                f"split {name!r}: {part} is {mask.dtype}{list(mask.shape)}, expected "
                f"bool[{len(data)}]: whether each interaction belongs to it"
            )
    if (np.sum([*masks.values()], axis=0) > 1).any():
        raise ValueError(
            f"split {name!r}: {', '.join(masks)} overlap; expected each interaction in "
            "one part"
        )
    train = ~(val | test)
    if query is not None:
        train &= ~query
        info = {**(info or {}), "query": data.take(query)}
    counts = {
        f"test_{kind}s_without_train": len(np.setdiff1d(column[test], column[train]))
        for kind, column in (("user", data.user), ("item", data.item))
    }
    return Split(
        train=data.take(train),
        val=data.take(val),
        test=data.take(test),
        name=name,
        info={**(info or {}), **counts},
        by_time=by_time,
    )


def sizes_of(data: Interactions) -> np.ndarray:
    """Returns the number of interactions of each user, `[U]`."""
    return np.bincount(data.user, minlength=data.num_users)


def rank_from_end(data: Interactions, order: np.ndarray | None = None) -> np.ndarray:
    """Ranks the interactions of each user from the last one, which has rank 0.

    Args:
        data: All interactions.
        order: `[n]` indices that sort the interactions by user and then as desired; by
            default their order in `data`, by time.

    Returns:
        `[n]` ranks.
    """
    order = np.arange(len(data)) if order is None else order
    user = data.user[order]
    rank = np.empty(len(data), np.int64)
    rank[order] = data.offsets()[1:][user] - 1 - np.arange(len(data))
    return rank


def share_of(size: np.ndarray, share: float, room: np.ndarray) -> np.ndarray:
    """Returns each size's share, rounded down, at least 1 if any, within `room`."""
    # The epsilon keeps 10 * 0.3 from being rounded down to 2.
    count = (size * share + 1e-9).astype(np.int64)
    return np.clip(np.maximum(count, int(share > 0)), 0, np.maximum(room, 0))


def split_key(seed: int) -> Array:
    """Returns the key of a random split."""
    return keys.derive(jax.random.key(seed), keys.Purpose.SPLIT)


def draw(
    pool: np.ndarray, val: float, test: float, seed: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws disjoint parts for validation and test from `pool`, in ascending order.

    Args:
        pool: Ids to draw from.
        val: Share for validation.
        test: Share for test.
        seed: Seed of the draw.
        kind: `items` or `users`, for the error message.

    Raises:
        ValueError: The shares leave train empty.
    """
    num_test, num_val = max(round(len(pool) * test), 1), round(len(pool) * val)
    if num_test + num_val >= len(pool):
        raise ValueError(
            f"holding out {num_val} + {num_test} of {len(pool)} {kind} leaves none to "
            "train on. Lower val or test, or use more data."
        )
    drawn = pool[np.asarray(jax.random.permutation(split_key(seed), len(pool)))]
    val_part = np.sort(drawn[num_test : num_test + num_val])
    return val_part.astype(np.int32), np.sort(drawn[:num_test]).astype(np.int32)


def histories(split: Split, length: int) -> np.ndarray:
    """Each user's last training items `[U, L]` int32, latest first, padded with `I`.

    For users that are held out (`ColdUsers`) they are from the query part of the split.
    """
    parts = [split.train]
    if "query" in split.info:
        parts.append(split.info["query"])
    shape = (split.train.num_users, length)
    result = np.full(shape, split.train.num_items, np.int32)
    for part in parts:
        offsets = part.offsets()
        rank = offsets[part.user + 1] - 1 - np.arange(len(part))
        last = rank < length
        result[part.user[last], rank[last]] = part.item[last]
    return result
