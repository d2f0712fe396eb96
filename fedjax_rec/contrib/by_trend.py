"""Weights by the trend of the clients' losses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.checks import check_ranges

with epy.lazy_imports():
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Aggregator


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

    def build(self, context: Context) -> Aggregator:
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

        return fold.fold(weigh, finish, sums, start=start, reads=lambda state: state)
