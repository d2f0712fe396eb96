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
        unit: NumPy's name of the unit of timestamps since 1970: `s` for published
            data sets, `ns` for dates of `from_frame`.
    """

    unit: str = "s"

    def partition(self, train: fr.Interactions) -> fr.Partition:
        """The client of each training interaction."""
        times = train.timestamp.astype(f"datetime64[{self.unit}]")
        day = times.astype("datetime64[D]").astype(int)
        if day.max() > 150_000:
            raise ValueError(f"unit={self.unit!r}: the days lie after 2380; is it ns?")
        weekday = (day + 3) % 7  # 1970 began on a Thursday
        return fr.partition_by(weekday, train, "weekday")
