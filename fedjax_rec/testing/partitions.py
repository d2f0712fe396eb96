"""Laws of partitions."""

import dataclasses
import functools
from typing import Any

import numpy as np

from fedjax_rec.data.partition import Partition
from fedjax_rec.testing import world
from fedjax_rec.testing.compare import check_same, require
from fedjax_rec.testing.law import LawBroken, NotApplicable


class Partitioned:
    """The training interactions of 160 users, partitioned by some settings.

    Settings with more clients than these data allow are tried with 7.
    """

    def __init__(self, settings: Any) -> None:
        self.train = world.population()
        try:
            self.result: Partition = settings.partition(self.train)
        except ValueError:
            names = {field.name for field in dataclasses.fields(settings)}
            if "num_clients" not in names:
                raise
            settings = dataclasses.replace(settings, num_clients=7)
            self.result = settings.partition(self.train)
        self.settings = settings

    @functools.cached_property
    def client(self) -> np.ndarray:
        """The client of each interaction, if it can be compared at all."""
        client = self.result.client
        if not isinstance(client, np.ndarray) or client.shape != (len(self.train),):
            raise NotApplicable("`client` is no array with one number an interaction")
        return client


def builds(made: Partitioned) -> None:
    """`partition(train)` returns a Partition"""
    require(
        isinstance(made.result, Partition),
        f"it returned a {type(made.result).__name__}; expected a "
        "fedjax_rec.data.partition.Partition",
    )


def one_client_each(made: Partitioned) -> None:
    """Every training interaction has one client, as int32 in the order of train"""
    client = made.result.client
    require(
        isinstance(client, np.ndarray),
        f"`client` is a {type(client).__name__}; expected a NumPy array",
    )
    require(
        client.shape == (len(made.train),),
        f"`client` has shape {client.shape}, and train has {len(made.train)} "
        "interactions",
    )
    require(
        client.dtype == np.int32, f"`client` is {client.dtype}; use .astype(np.int32)"
    )


def clients_are_in_range(made: Partitioned) -> None:
    """Clients are numbered from 0 to `num_clients - 1`"""
    low, high, n = made.client.min(), made.client.max(), made.result.num_clients
    require(
        low >= 0 and high < n,
        f"interactions are on clients {low} to {high}, and num_clients={n}",
    )


def the_same_twice(made: Partitioned) -> None:
    """The same settings and data give the same partition"""
    again = made.settings.partition(made.train)
    check_same(
        again.client, made.client, "the clients of a second call, and of the first"
    )


def users_of_clients_are_true(made: Partitioned) -> None:
    """`user_of_client` is the one user of each client"""
    user = made.result.user_of_client
    if user is None:
        raise NotApplicable("user_of_client is None: clients may hold several users")
    require(
        user.shape == (made.result.num_clients,),
        f"user_of_client has shape {user.shape}, and num_clients="
        f"{made.result.num_clients}",
    )
    wrong = np.flatnonzero(user[made.client] != made.train.user)
    if len(wrong):
        at = wrong[0]
        raise LawBroken(
            f"interaction {at} of user {made.train.user[at]} is on client "
            f"{made.client[at]}, and user_of_client has user {user[made.client[at]]} "
            f"for it; {len(wrong)} interactions are on the client of another user"
        )


LAWS = (
    builds,
    one_client_each,
    clients_are_in_range,
    the_same_twice,
    users_of_clients_are_true,
)
