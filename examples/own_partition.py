"""A partition: a client for each day of the week, so that clients share their users.

fedjax-rec train quickstart --plugin examples/own_partition.py --partition weekday \\
    --algorithm fedavg --algorithm.model.users table
fedjax-rec data describe quickstart --plugin examples/own_partition.py \\
    --partition weekday

The clients hold several users, so users have to be rows of a shared table, as in
FedAvg(model=MatrixFactorization(users="table")). Systems that keep one user's part on
each client are refused.
"""

from __future__ import annotations

import dataclasses

import fedjax_rec as fr


@fr.kind("partition")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Weekday:
    """The interactions of one day of the week are one client's.

    Attributes:
        day: length of a day in timestamps: 86400 for seconds, 86400000000000 for the
            nanoseconds of `from_frame`.
    """

    day: int = 86_400

    def partition(self, train: fr.Interactions) -> fr.Partition:
        """The client of each training interaction."""
        weekday = (train.timestamp // self.day + 3) % 7  # 1970 began on a Thursday
        return fr.partition_by(weekday, train, "weekday")
