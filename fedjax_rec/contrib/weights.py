"""Weights by the clients' participation (FedAU), or by the trend of their losses."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from etils import epy

from fedjax_rec.core.checks import check_ranges
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.core import contracts


class Attendance(NamedTuple):
    """The server's state, `[N]` each.

    Attributes:
        weight: `omega`, the mean interval between a client's rounds.
        intervals: number of intervals in that mean.
        since: rounds since the last interval ended.
    """

    weight: jax.Array
    intervals: jax.Array
    since: jax.Array


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

    def build(self, context: Context) -> contracts.Aggregator:
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByTrend:
    """Weights `n_i exp((F_i / F_i^last) / T)`: slowly falling losses count for more.

    `F_i^last` is the loss in the last round in which `i` took part. This is the dynamic
    weight average of multi-task learning, with clients in place of tasks; that one uses
    the ratio of the two losses before, since it needs its weights earlier. A client's
    first ratio is 1. The server keeps `N` losses.

    It has not been shown to help here: no experiment compares it with a mean.

    Attributes:
        temperature: `T`; 2 in the paper. As it grows, the rule becomes FedAvg.

    References:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR
        2019, section 3.3.
    """

    temperature: float = 2.0

    def __post_init__(self) -> None:
        check_ranges(self, temperature="(0, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""
        num_clients = context.num_clients

        def start(shared):  # losses; 0 is none yet
            return jnp.zeros(num_clients, fold.scalar(shared).dtype)

        def sums(shared, cohort_size):
            return fold.scalar(shared), start(shared), start(shared)

        def weigh(acc, deltas, weights, senders):
            present = weights > 0
            ids = jnp.where(present, senders.ids, num_clients)
            last = acc.memory.at[ids].get(mode="clip")
            ratio = jnp.where(last > 0, senders.loss / jnp.where(last > 0, last, 1), 1)
            exponent = jnp.clip(ratio / self.temperature, -fold.LARGEST, fold.LARGEST)
            scale = jnp.where(present, weights * jnp.exp(exponent), 0)
            scale = scale.astype(weights.dtype)
            total, loss, seen = acc.sums
            new = jnp.where(present, senders.loss, 0).astype(loss.dtype)
            loss = loss.at[ids].add(new, mode="drop")
            seen = seen.at[ids].add(1, mode="drop")
            return deltas, scale, (total + scale.sum(), loss, seen)

        def finish(acc, state, shared):
            total, loss, seen = acc.sums
            return fold.divided(acc.total, total), jnp.where(seen > 0, loss, state), {}

        rule = fold.fold(weigh, finish, sums, start=start, reads=lambda state: state)
        return rule._replace(numbers=1)
