"""Evaluated users without training data, each as a client of its own."""

from typing import NamedTuple

import numpy as np

from fedjax_rec.data.clients import ClientData, lay_out
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits import Split


class Newcomers(NamedTuple):
    """Users who take part in no round, with what the split shows of them.

    Attributes:
        user: `[H]` int32 user ids, ascending.
        ids: `[H]` int32 client ids: their client without data, or one from `N` on.
        data: the shown interactions (`query`) by newcomer, in one size bucket; empty if
            the split shows none.
    """

    user: np.ndarray
    ids: np.ndarray
    data: ClientData

    def place_of(self, num_users: int) -> np.ndarray:
        """`[U]` int32, the position of each user among the newcomers, `H` if absent."""
        place = np.full(num_users, len(self.user), np.int32)
        place[self.user] = np.arange(len(self.user))
        return place


def newcomers_of(
    split: Split,
    partition: Partition,
    pool: np.ndarray | None = None,
    also_excluded: bool = False,
) -> Newcomers | None:
    """The newcomers of a split, or `None` if every evaluated user has training data.

    Args:
        split: the split.
        partition: partition of its training interactions.
        pool: as for `lay_out`.
        also_excluded: their negatives avoid the validation and test items, too.
    """
    evaluated = np.concatenate([split.val.user, split.test.user])
    user = np.setdiff1d(evaluated, split.train.user).astype(np.int32)
    if not len(user):
        return None
    num_users, num_clients = split.train.num_users, partition.num_clients
    ids = num_clients + np.arange(len(user), dtype=np.int32)
    if partition.user_of_client is not None:
        client_of_user = np.full(num_users, num_clients)
        client_of_user[partition.user_of_client] = np.arange(num_clients)
        own = client_of_user[user]
        ids = np.where(own < num_clients, own, ids).astype(np.int32)
    shown = split.info.get("query", split.train.take(np.zeros(0, int)))
    shown = shown.take(np.isin(shown.user, user))
    clients = Partition(
        client=np.searchsorted(user, shown.user).astype(np.int32),
        num_clients=len(user),
        name="newcomers",
        user_of_client=user,
    )
    others = (split.val, split.test) if also_excluded else ()
    data = lay_out(shown, clients, also_excluded=others, pool=pool, max_buckets=1)
    return Newcomers(user, ids, data)
