"""FedAU: weights by the clients' participation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from etils import epy

from fedjax_rec.core.checks import check_ranges

with epy.lazy_imports():
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Aggregator


class Attendance(NamedTuple):
    """The server's state, `[N]` each.

    Attributes:
        weight: `omega`, the mean interval between a client's rounds.
        intervals: number of intervals in that mean.
        since: rounds since the last interval ended.
    """

    weight: Array
    intervals: Array
    since: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByParticipation:
    """`1/N sum_i omega_i delta_i`, `omega_i` the mean interval between i's rounds.

    A client that takes part with probability `p` has intervals with mean `1/p`, so that
    availability does not decide which clients the model serves. The sum is over the
    cohort, the division by the population: if all take part in every round, it is the
    uniform mean. A client's first weight is 1. The server keeps `3 N` numbers.

    It has not been shown to help here: no experiment compares it with a mean.

    Attributes:
        longest: `K`, rounds after which an interval counts as ended, so that the return
            of a client after a long absence does not dominate a round; 50 in the paper.

    References:
        Wang and Ji, A Lightweight Method for Tackling Unknown Participation Statistics
        in Federated Averaging (FedAU), ICLR 2024, algorithms 1 and 2.
    """

    longest: int = 50

    def __post_init__(self) -> None:
        check_ranges(self, longest="[1, inf)")

    def build(self, context: Context) -> Aggregator:
        """The aggregator."""
        num_clients = context.num_clients

        def zeros(shared, cohort_size=0):
            return jnp.zeros(num_clients, fold.scalar(shared).dtype)

        def start(shared):
            zero = zeros(shared)
            return Attendance(jnp.ones_like(zero), zero, zero)

        def weigh(acc, deltas, weights, senders):
            present = weights > 0
            ids = jnp.where(present, senders.ids, num_clients)
            omega = jnp.where(present, acc.memory.at[ids].get(mode="clip"), 0)
            seen = acc.sums.at[ids].add(1, mode="drop")
            return deltas, omega.astype(weights.dtype), seen

        def finish(acc, state, shared):
            since, count = state.since + 1, state.intervals + 1
            ended = (acc.sums > 0) | (since >= self.longest)
            mean = (state.intervals * state.weight + since) / count
            new = Attendance(
                jnp.where(ended, mean, state.weight),
                jnp.where(ended, count, state.intervals),
                jnp.where(ended, 0, since),
            )
            return fold.divided(acc.total, jnp.asarray(num_clients)), new, {}

        return fold.fold(
            weigh, finish, zeros, start=start, reads=lambda s: s.weight, linear=True
        )
