"""Cold start: items or users that no client trains on."""

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


def cold_items(
    data: Interactions,
    *,
    fraction: float = 0.2,
    val_fraction: float = 0.1,
    key: Array,
) -> Split:
    """Items nobody trains on: test is every interaction with them.

    They are drawn uniformly from the items that occur at all. Info `test_items` and
    `val_items` hold them (int32, ascending).

    Args:
        data: all interactions.
        fraction: share of the items held out for test.
        val_fraction: share of the items, others, held out for validation.
        key: typed key of the draw.

    Returns:
        The split.

    Raises:
        ValueError: shares that leave no items to train on.

    References:
        Schein et al. 2002, Methods and metrics for cold-start recommendations, SIGIR.
    """
    pool = np.unique(data.item)
    val_items, test_items = _draw(key, pool, val_fraction, fraction, "items")
    return split_by(
        data,
        val=np.isin(data.item, val_items),
        test=np.isin(data.item, test_items),
        name=f"cold_items(fraction={fraction}, val_fraction={val_fraction})",
        info={"val_items": val_items, "test_items": test_items},
    )


def cold_users(
    data: Interactions,
    *,
    fraction: float = 0.1,
    val_fraction: float = 0.1,
    query: float = 0.8,
    key: Array,
) -> Split:
    """Users nobody trains on, split in time into a query and what it should find.

    They are drawn uniformly from the users with at least two interactions. Test and
    validation hold their targets only; info `query` holds the earlier interactions of
    both (`Interactions`), the only history that may be shown to the model for them, and
    `test_users`, `val_users` the users (int32, ascending). Train, validation, test and
    query together are the data.

    Args:
        data: all interactions.
        fraction: share of the users held out for test.
        val_fraction: share of the users, others, held out for validation.
        query: share of a held-out user's history that is query, rounded down, but at
            least one interaction, as at least one is a target.
        key: typed key of the draw.

    Returns:
        The split.

    Raises:
        ValueError: shares that leave no users to train on, or no query.

    References:
        Liang et al. 2018, Variational autoencoders for collaborative filtering,
        arXiv:1802.05814 (strong generalization).
    """
    if not 0 < query < 1:
        raise ValueError(f"query={query} must lie between 0 and 1, both excluded")
    size = sizes_of(data)
    pool = np.flatnonzero(size >= 2).astype(np.int32)
    val_users, test_users = _draw(key, pool, val_fraction, fraction, "users")
    targets = size - np.maximum((size * query + 1e-9).astype(np.int64), 1)
    target = rank_from_end(data, np.arange(len(data))) < targets[data.user]
    in_val, in_test = np.isin(data.user, val_users), np.isin(data.user, test_users)
    return split_by(
        data,
        val=in_val & target,
        test=in_test & target,
        query=(in_val | in_test) & ~target,
        name=f"cold_users(fraction={fraction}, val_fraction={val_fraction}, "
        f"query={query})",
        info={"val_users": val_users, "test_users": test_users},
    )


def _draw(
    key: Array, pool: np.ndarray, val: float, test: float, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint uniform draws from `pool`, ascending."""
    check_shares(val_fraction=val, fraction=test)
    num_test, num_val = max(round(len(pool) * test), 1), round(len(pool) * val)
    if num_test + num_val >= len(pool):
        raise ValueError(
            f"holding out {num_val} + {num_test} of {len(pool)} {what} leaves none to "
            "train on. Lower fraction or val_fraction, or use more data."
        )
    drawn = pool[np.asarray(jax.random.permutation(key, len(pool)))]
    val_part = np.sort(drawn[num_test : num_test + num_val])
    return val_part.astype(np.int32), np.sort(drawn[:num_test]).astype(np.int32)
