"""Partitions that follow from who the users are: no key."""

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition.assignment import Partition


def per_user(train: Interactions) -> Partition:
    """One client per user: client `u` is user `u`, empty where the user is.

    The setting of cross-device recommendation: a client is somebody's phone.
    """
    return Partition(
        client=train.user.astype(np.int32),
        num_clients=train.num_users,
        name="per_user",
        user_of_client=np.arange(train.num_users, dtype=np.int32),
    )


def by_attribute(train: Interactions, attribute: str) -> Partition:
    """One client per value of a user attribute: cross-silo, whole users.

    Clients are numbered by the sorted values of the users who have interactions, so no
    client is empty. A value is the whole string, `|` included.

    Args:
        train: the training interactions.
        attribute: column of `train.users.attributes`, such as a region.

    Returns:
        The partition.

    Raises:
        ValueError: the users have no such attribute, or nobody has interactions.
    """
    columns = train.users.attributes
    if attribute not in columns:
        known = ", ".join(sorted(columns)) or "none"
        raise ValueError(
            f"users of {train.name!r} have no attribute {attribute!r}; available: "
            f"{known}. Pick one of them, or another partitioner."
        )
    if not len(train):
        raise ValueError(f"by_attribute({attribute!r}): train has no interactions")
    users, index = np.unique(train.user, return_inverse=True)
    column = np.asarray(columns[attribute], dtype=str)[users]
    values, silo = np.unique(column, return_inverse=True)
    # One user a silo throughout makes the silos users, in this order.
    one_each = len(values) == len(users)
    return Partition(
        client=silo[index].astype(np.int32),
        num_clients=len(values),
        name=f"by_attribute({attribute})",
        user_of_client=users[np.argsort(silo)].astype(np.int32) if one_each else None,
    )
