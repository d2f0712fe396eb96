"""Partitions of users or interactions without regard to labels."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from etils import epy

from fedjax_rec.core.checks import check_ranges, check_settings

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.data.interactions import Interactions

with epy.lazy_imports():
    import jax
    import numpy as np

    from fedjax_rec.core import keys
    from fedjax_rec.data.partition import assign

Unit = Literal["user", "interaction"]
"""Unit that moves: all interactions of a user together, or each one separately."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """The client that holds each training interaction.

    Attributes:
        client: `[n]` int32 in `[0, num_clients)`, in the order of train.
        num_clients: Population `N`; clients may be empty.
        name: Name of the partition with its options.
        user_of_client: `[N]` int32 if clients and users correspond one to one, else
            `None`.
    """

    client: np.ndarray
    num_clients: int
    name: str
    user_of_client: np.ndarray | None


def partition_by(labels: Any, train: Interactions, name: str) -> Partition:
    """One client for each label, in the order of the sorted labels.

    Args:
        labels: `[n]` the label of each training interaction: numbers or texts.
        train: The training interactions.
        name: Name of the partition with its options.

    Raises:
        ValueError: There is not one label for each interaction, or one is NaN.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(train),) or not len(train):
        raise ValueError(
            f"partition {name!r}: labels have shape {labels.shape}, expected "
            f"({len(train)},): one for each training interaction, of at least one"
        )
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(
            f"partition {name!r}: label {int(np.argmax(np.isnan(labels)))} is NaN; "
            "expected the client of every training interaction"
        )
    values, client = np.unique(labels, return_inverse=True)
    pairs = np.unique(client.astype(np.int64) * train.num_users + train.user)
    users = pairs % train.num_users  # in the order of their clients
    single = len(pairs) == len(values) == len(np.unique(users))
    return Partition(
        client=client.astype(np.int32),
        num_clients=len(values),
        name=name,
        user_of_client=users.astype(np.int32) if single else None,
    )


class Units(NamedTuple):
    """The units that a partition assigns to clients.

    Attributes:
        key: Typed key of the assignment.
        index: `[n]` unit of each interaction.
        count: Number of units.
        users: `[count]` user of each unit, or `None` if units are interactions.
    """

    key: Array
    index: np.ndarray
    count: int
    users: np.ndarray | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomPartition:
    """Base of the partitions that assign units to clients at random.

    Attributes:
        num_clients: Number of clients.
        unit: Kind of unit.
        seed: Seed of the assignment.
    """

    num_clients: int = 100
    unit: Unit = "user"
    seed: int = 0

    def __post_init__(self):
        check_settings(self, num_clients="[1, inf)")

    def units(self, train: Interactions) -> Units:
        """Returns the users with interactions, or the interactions, as units.

        Raises:
            ValueError: There are fewer units than clients.
        """
        users, index = None, np.arange(len(train))
        if self.unit == "user":
            users, index = np.unique(train.user, return_inverse=True)
        count = len(train) if users is None else len(users)
        if self.num_clients > count:
            hint = " or unit='interaction'" if self.unit == "user" else ""
            raise ValueError(
                f"num_clients={self.num_clients}, expected 1 to {count}, the "
                f"{self.unit}s in train of {train.name!r}. Use fewer clients{hint}."
            )
        key = keys.derive(jax.random.key(self.seed), keys.Purpose.PARTITION)
        return Units(key, index, count, users)

    def assigned(
        self, units: Units, client_of_unit: Array, name: str, **options: Any
    ) -> Partition:
        """Returns the partition in which each unit is on the client `client_of_unit`.

        Args:
            units: The units.
            client_of_unit: `[count]` int32.
            name: Name of the partition.
            **options: Options to show after the name.
        """
        n = self.num_clients
        clients = np.asarray(client_of_unit, np.int32)
        user_of_client = None
        if units.users is not None and units.count == n:
            order = np.argsort(clients)
            if (clients[order] == np.arange(n)).all():
                user_of_client = units.users[order].astype(np.int32)
        options["unit"] = self.unit
        shown = "".join(f", {option}={value}" for option, value in options.items())
        return Partition(
            client=clients[units.index],
            num_clients=n,
            name=f"{name}({n}{shown})",
            user_of_client=user_of_client,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerUser:
    """One client per user: client `u` is user `u`, empty if the user is.

    This is the setting of cross-device recommendation, in which a client is a phone.
    """

    def partition(self, train: Interactions) -> Partition:
        """Partitions the training interactions."""
        return Partition(
            client=train.user.astype(np.int32),
            num_clients=train.num_users,
            name="per_user",
            user_of_client=np.arange(train.num_users, dtype=np.int32),
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByAttribute:
    """One client per value of a user attribute: the cross-silo setting.

    Clients are numbered by the sorted values of the users with interactions, so no
    client is empty. A value is the complete string, including any `|`.

    Attributes:
        attribute: Name of the user attribute, such as a region.
    """

    attribute: str = "region"

    def partition(self, train: Interactions) -> Partition:
        """Partitions the training interactions.

        Raises:
            ValueError: The users have no such attribute, or train is empty.
        """
        columns = train.users.attributes
        if self.attribute not in columns:
            available = ", ".join(sorted(columns)) or "none"
            raise ValueError(
                f"users of {train.name!r} have no attribute {self.attribute!r}; "
                f"available: {available}. Pick one of them, or another partition."
            )
        if not len(train):
            raise ValueError(
                f"by_attribute({self.attribute!r}): train has no interactions"
            )
        column = np.asarray(columns[self.attribute], dtype=str)
        return partition_by(
            column[train.user], train, f"by_attribute({self.attribute})"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class IID(RandomPartition):
    """Units are dealt at random; the clients' numbers of units differ by at most one.

    Attributes:
        num_clients: Number of clients.
        unit: `user` keeps the interactions of a user together, so that the clients'
            numbers of interactions still differ; `interaction` makes clients alike.
        seed: Seed of the assignment.

    References:
        McMahan et al. 2017, Communication-efficient learning of deep networks from
        decentralized data, arXiv:1602.05629 (the IID setting).
    """

    def partition(self, train: Interactions) -> Partition:
        """Partitions the training interactions; no client is empty.

        Raises:
            ValueError: There are more clients than units.
        """
        units = self.units(train)
        client = assign.assign_uniform(
            units.key, num_units=units.count, num_clients=self.num_clients
        )
        return self.assigned(units, client, "iid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantitySkew(RandomPartition):
    """Client sizes follow a power law of their rank; client 0 is the largest.

    Attributes:
        num_clients: Number of clients.
        exponent: Exponent of the law; 0 makes sizes equal, 1 is Zipf's law.
        unit: Whether sizes are counted in users or in interactions.
        seed: Seed of the assignment.

    References:
        Li et al. 2020, Federated optimization in heterogeneous networks,
        arXiv:1812.06127 (power-law sizes).
    """

    exponent: float = 1.5

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, exponent="[0, inf)")

    def partition(self, train: Interactions) -> Partition:
        """Partitions the training interactions; no client is empty.

        Raises:
            ValueError: There are more clients than units.
        """
        units = self.units(train)
        client = assign.assign_power_law(
            units.key,
            float(self.exponent),
            num_units=units.count,
            num_clients=self.num_clients,
        )
        return self.assigned(units, client, "quantity_skew", exponent=self.exponent)
