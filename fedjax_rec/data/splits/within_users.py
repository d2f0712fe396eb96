"""Splits of histories: users are in every part, and the past trains."""

from typing import Literal

import jax
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits.split import (
    Split,
    check_shares,
    rank_from_end,
    sizes_of,
    split_by,
)


def leave_one_out(
    data: Interactions,
    *,
    ties: Literal["file_order", "reverse_file_order"] = "file_order",
) -> Split:
    """Each user's latest interaction is test, the one before it validation.

    Users with fewer than three interactions stay wholly in train: info
    `users_too_short`. Info `ties` repeats the option.

    Args:
        data: all interactions.
        ties: of equal timestamps, `file_order` takes the one later in the file for the
            later; `reverse_file_order` the one earlier in the file, as the published
            PFedRec code does.

    Returns:
        The split.

    Raises:
        ValueError: an unknown tie rule.

    References:
        He et al. 2017, Neural collaborative filtering, arXiv:1708.05031.
    """
    if ties not in ("file_order", "reverse_file_order"):
        raise ValueError(
            f"ties={ties!r} is unknown; expected 'file_order' or 'reverse_file_order'"
        )
    position = data.position if ties == "file_order" else -data.position
    from_end = rank_from_end(data, np.lexsort((position, data.timestamp, data.user)))
    size = sizes_of(data)
    evaluated = size[data.user] >= 3
    return split_by(
        data,
        val=evaluated & (from_end == 1),
        test=evaluated & (from_end == 0),
        name=f"leave_one_out(ties={ties})",
        info={"users_too_short": int(((size > 0) & (size < 3)).sum()), "ties": ties},
    )


def ratio(
    data: Interactions,
    *,
    val: float = 0.1,
    test: float = 0.1,
    by: Literal["time", "random"] = "time",
    key: Array | None = None,
) -> Split:
    """Shares of each user's interactions, the latest for test or random ones.

    A share is rounded down, but to no less than one interaction while train keeps one;
    test comes first. Users with a single interaction stay in train: info
    `users_too_short`.

    Args:
        data: all interactions.
        val: share of validation.
        test: share of test.
        by: `time`: test is each user's latest share, validation the one before it;
            `random`: which are which is drawn.
        key: typed key, needed by `random` only.

    Returns:
        The split.

    Raises:
        ValueError: shares that leave no train, an unknown `by`, or a missing key.
    """
    check_shares(val=val, test=test)
    if by == "time":
        order = np.arange(len(data))
    elif by == "random":
        # Sorting random 64 bits within users is much cheaper than a permutation of all.
        bits = np.asarray(jax.random.bits(_need(key, "ratio"), (len(data), 2)))
        order = np.lexsort((bits[:, 1], bits[:, 0], data.user))
    else:
        raise ValueError(f"by={by!r} is unknown; expected 'time' or 'random'")
    size = sizes_of(data)
    num_test = _share(size, test, size - 1)
    num_val = _share(size, val, size - 1 - num_test)
    from_end = rank_from_end(data, order)
    in_test = from_end < num_test[data.user]
    return split_by(
        data,
        val=~in_test & (from_end < (num_test + num_val)[data.user]),
        test=in_test,
        name=f"ratio(val={val}, test={test}, by={by})",
        info={"users_too_short": int((size == 1).sum())},
    )


def global_time(data: Interactions, *, val: float = 0.1, test: float = 0.1) -> Split:
    """One cut in time for everyone: nobody's future is anybody's training data.

    Interactions of the same timestamp never straddle a cut; they fall to the later
    part. Info holds the cuts, `val_from` and `test_from` (the first timestamps).

    Args:
        data: all interactions.
        val: share of validation, about.
        test: share of test, about.

    Returns:
        The split. Users and items may appear in test alone; info counts them.

    Raises:
        ValueError: shares that leave no train, or equal timestamps that do.

    References:
        Ji et al. 2020, A critical study on data leakage in recommender system offline
        evaluation, arXiv:2010.11060.
    """
    check_shares(val=val, test=test)
    n = len(data)
    times = np.sort(data.timestamp)
    held = max(round(n * test), 1)
    test_from = int(times[-held]) if n else 0
    val_from = int(times[-min(held + round(n * val), n)]) if n else 0
    if not n or val_from == times[0]:
        raise ValueError(
            f"global_time found {len(np.unique(times))} distinct timestamps in {n} "
            f"interactions and cannot cut off val={val} and test={test} without "
            "emptying train. Lower the shares, or use ratio(by='random')."
        )
    return split_by(
        data,
        val=(data.timestamp >= val_from) & (data.timestamp < test_from),
        test=data.timestamp >= test_from,
        name=f"global_time(val={val}, test={test})",
        info={"val_from": val_from, "test_from": test_from},
    )


def _share(size: np.ndarray, share: float, room: np.ndarray) -> np.ndarray:
    """Each size's share: rounded down, at least one if any, within the room."""
    # The epsilon keeps 10 * 0.3 from rounding down to 2.
    wanted = np.maximum((size * share + 1e-9).astype(np.int64), 1 if share > 0 else 0)
    return np.clip(wanted, 0, np.maximum(room, 0))


def _need(key: Array | None, split: str) -> Array:
    if key is None:
        raise ValueError(
            f"{split}(by='random') draws, and got no key; pass key=jax.random.key(...)"
        )
    return key
