"""Laws of partitions."""

import dataclasses
from typing import Any

from fedjax_rec.data.partition import Partition
from fedjax_rec.data.returned import check_partition
from fedjax_rec.testing import world
from fedjax_rec.testing.compare import check_same
from fedjax_rec.testing.law import LawBroken


class Partitioned:
    """The interactions of 160 users, partitioned by some settings.

    Settings with more clients than these data allow are examined with 7.
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


def builds(made: Partitioned) -> None:
    """Every training interaction is on one client, from 0 to `num_clients - 1`"""
    try:
        check_partition(made.result, made.train, type(made.settings).__name__)
    except ValueError as error:
        raise LawBroken(str(error)) from error


def the_same_twice(made: Partitioned) -> None:
    """The same settings and data give the same partition"""
    again = made.settings.partition(made.train)
    check_same(
        again.client,
        made.result.client,
        "a second partition, and the first",
    )


LAWS = (builds, the_same_twice)
