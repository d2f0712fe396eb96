"""The last items of every user, as input of a user tower."""

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import Split


def histories(split: Split, length: int) -> np.ndarray:
    """Each user's last training items `[U, L]` int32, latest first, padded with `I`.

    For users that are held out (`ColdUsers`) they are from the query part of the split.
    """
    parts = [split.train]
    if isinstance(split.info.get("query"), Interactions):
        parts.append(split.info["query"])
    shape = (split.train.num_users, length)
    result = np.full(shape, split.train.num_items, np.int32)
    for part in parts:
        offsets = part.offsets()
        rank = offsets[part.user + 1] - 1 - np.arange(len(part))
        last = rank < length
        result[part.user[last], rank[last]] = part.item[last]
    return result
