"""A partition, and how the things that move become one."""

import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from fedjax_rec.data.interactions import Interactions

Unit = Literal["user", "interaction"]
"""What moves: whole users (a person's data stays together), or single interactions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Partition:
    """Which client holds each training interaction.

    Attributes:
        client: `[n]` int32 in `[0, num_clients)`, in the order of train.
        num_clients: the population `N`; clients may be empty.
        name: of the partitioner, with its options.
        user_of_client: `[N]` int32 where clients and users match one to one, else
            `None`.
    """

    client: np.ndarray
    num_clients: int
    name: str
    user_of_client: np.ndarray | None


class Units(NamedTuple):
    """What a partitioner deals out.

    Attributes:
        index: `[n]`, the unit of each interaction.
        count: the number of units.
        users: `[count]`, the user behind each unit, or `None` for interactions.
    """

    index: np.ndarray
    count: int
    users: np.ndarray | None


def units_of(train: Interactions, unit: Unit, num_clients: int) -> Units:
    """The units of `train`: the users who have interactions, or the interactions.

    Raises:
        ValueError: an unknown unit, or fewer units than clients.
    """
    if unit == "user":
        users, index = np.unique(train.user, return_inverse=True)
        units = Units(index, len(users), users)
    elif unit == "interaction":
        units = Units(np.arange(len(train)), len(train), None)
    else:
        raise ValueError(f"unit={unit!r} is unknown; expected 'user' or 'interaction'")
    if not 1 <= num_clients <= units.count:
        hint = " or unit='interaction'" if unit == "user" else ""
        raise ValueError(
            f"num_clients={num_clients}, expected 1 to {units.count}, the {unit}s in "
            f"train of {train.name!r}. Use fewer clients{hint}."
        )
    return units


def from_units(
    units: Units, client_of_unit: np.ndarray, num_clients: int, name: str
) -> Partition:
    """The partition that sends every unit's interactions to the unit's client."""
    client_of_unit = np.asarray(client_of_unit, np.int32)
    user_of_client = None
    if units.users is not None and units.count == num_clients:
        order = np.argsort(client_of_unit)
        if (client_of_unit[order] == np.arange(num_clients)).all():
            user_of_client = units.users[order].astype(np.int32)
    return Partition(
        client=client_of_unit[units.index],
        num_clients=num_clients,
        name=name,
        user_of_client=user_of_client,
    )
