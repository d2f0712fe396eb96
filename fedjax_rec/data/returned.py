"""Checks of the results of an experiment's loader, split and partition."""

from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits import Split


def split_and_partition(
    data: Interactions, split: Any, partition: Any
) -> tuple[Split, Partition]:
    """Splits interactions, and partitions train.

    Args:
        data: the interactions.
        split: settings of the split.
        partition: settings of the partition.

    Raises:
        ValueError: one of them has returned something else.
    """
    parts = split.split(data)
    check_split(parts, data, type(split).__name__)
    clients = partition.partition(parts.train)
    check_partition(clients, parts.train, type(partition).__name__)
    return parts, clients


def load_data(settings: Any, progress: bool = False) -> Interactions:
    """The interactions that the data of an experiment load, checked.

    Args:
        settings: the data.
        progress: show bars for work of more than two seconds.

    Raises:
        ValueError: `load` has returned something else.
    """
    data = settings.load(progress)
    check_interactions(data, f"{type(settings).__name__}.load(...)")
    return data


def check_interactions(
    data: Any, source: str, data_set: Interactions | None = None
) -> None:
    """Checks interactions.

    Args:
        data: the interactions.
        source: what returned them, for messages.
        data_set: the whole data, if they are a part.

    Raises:
        ValueError: they are something else, not sorted, or of other users or items.
    """
    if not isinstance(data, Interactions):
        raise ValueError(
            f"{source} is a {type(data).__name__}; expected Interactions, such as from "
            "fedjax_rec.from_frame"
        )
    columns = [data.user, data.item, data.rating, data.timestamp, data.position]
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"{source} has columns of different lengths")
    for name, ids, size in (
        ("user", data.user, data.num_users),
        ("item", data.item, data.num_items),
    ):
        if ids.dtype.kind not in "iu":
            raise ValueError(f"{source} has {name} of {ids.dtype}; expected int32")
        if len(ids) and not (ids.min() >= 0 and ids.max() < size):
            lies = f"[{ids.min()}, {ids.max()}]"
            raise ValueError(f"{source} has {name} in {lies}; expected [0, {size})")
    if not _sorted(data.user, data.timestamp, data.position):
        raise ValueError(
            f"{source} is not sorted by user, timestamp and position, as `from_frame`, "
            "`make_interactions` and `take` with a mask leave interactions"
        )
    if data_set is not None:
        sizes = (data.num_users, data.num_items)
        if sizes != (data_set.num_users, data_set.num_items):
            raise ValueError(
                f"{source} has {sizes[0]} users and {sizes[1]} items, the data have "
                f"{data_set.num_users} and {data_set.num_items}; expected all in every "
                "part, as `take` leaves them"
            )


def _sorted(*columns: np.ndarray) -> bool:
    """Whether rows are in lexical order."""
    equal: Any = True
    for column in columns:
        before, after = column[:-1], column[1:]
        if (equal & (before > after)).any():
            return False
        equal = equal & (before == after)
    return True


def check_split(split: Any, data: Interactions, source: str) -> None:
    """Raises a ValueError if `source` has returned no split of these interactions."""
    if not isinstance(split, Split):
        raise ValueError(
            f"{source}.split returned a {type(split).__name__}; expected a Split, such "
            "as from fedjax_rec.split_by"
        )
    for part in ("train", "val", "test"):
        check_interactions(getattr(split, part), f"{source}: {part}", data)
    if not len(split.train):
        raise ValueError(f"{source}: train has no interactions; hold fewer out")


def check_partition(partition: Any, train: Interactions, source: str) -> None:
    """Raises a ValueError if `source` has returned no partition of train."""
    if not isinstance(partition, Partition):
        raise ValueError(
            f"{source}.partition returned a {type(partition).__name__}; expected a "
            "Partition, such as from fedjax_rec.partition_by"
        )
    client, number = partition.client, partition.num_clients
    if client.shape != (len(train),) or client.dtype.kind not in "iu":
        raise ValueError(
            f"{source}: client is {client.dtype}{list(client.shape)}; expected "
            f"int32[{len(train)}], the client of each training interaction"
        )
    if not (client.min() >= 0 and client.max() < number):
        raise ValueError(
            f"{source}: clients lie in [{client.min()}, {client.max()}]; expected "
            f"[0, {number}), as num_clients says"
        )
    if partition.user_of_client is None:
        return
    users = np.asarray(partition.user_of_client)
    if users.shape != (number,) or not (users[client] == train.user).all():
        raise ValueError(
            f"{source}: user_of_client has to be the only user of each of {number} "
            "clients, or None if some client holds several users"
        )
