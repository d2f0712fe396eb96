"""The last interactions of each user are the test; nothing is validation."""

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits.split import Split, rank_from_end, sizes_of, split_by


def leave_last(data: Interactions, *, count: int = 1) -> Split:
    """Each user's latest `count` interactions are test, by time and then file order.

    There is no validation, so no round can be selected: report the last one. Users
    with no more than `count` interactions stay in train: info `users_too_short`.

    Args:
        data: all interactions.
        count: test interactions a user, at least 1.

    Returns:
        The split.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"count={count}: hold out at least one interaction a user")
    from_end = rank_from_end(data, np.arange(len(data)))
    size = sizes_of(data)
    held = size > count
    return split_by(
        data,
        val=from_end < 0,
        test=held[data.user] & (from_end < count),
        name=f"leave_last(count={count})",
        info={"users_too_short": int(((size > 0) & ~held).sum())},
    )
