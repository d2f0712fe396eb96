"""Means and the sum of the clients' deltas."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax

    from fedjax_rec.aggregators import fold
    from fedjax_rec.core import contracts


Weights = Literal["examples", "uniform"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mean:
    """The weighted mean of the clients' deltas, in memory of one delta.

    `sum_c n_c delta_c / sum_c n_c` (FedAvg). A row that a client did not touch counts
    as zeros.

    Attributes:
        weights: `n_c`: the client's number of `examples`, or 1 (`uniform`).
        per_row: average each row over the clients that touched it, so that a rare item
            moves as fast as a popular one.

    References:
        McMahan et al., Communication-Efficient Learning of Deep Networks from
        Decentralized Data, AISTATS 2017.
    """

    weights: Weights = "examples"
    per_row: bool = False

    def __post_init__(self) -> None:
        check_settings(self)

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""
        return weighted_mean(uniform=self.weights == "uniform", per_row=self.per_row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sum:
    """The sum of the clients' deltas.

    References:
        Chai et al., Secure Federated Matrix Factorization, IEEE Intelligent Systems
        2021.
    """

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""
        return total()


def weighted_mean(
    *, uniform: bool = False, per_row: bool = False
) -> contracts.Aggregator:
    """The aggregator of `Mean`."""

    def weigh(deltas, weights, senders, lengths):
        return scale_of(weights, uniform)

    return fold.mean(weigh, per_row=per_row, linear=True, equal=uniform)


def per_row_mean(*, uniform: bool = False) -> contracts.Aggregator:
    """The aggregator of `Mean(per_row=True)`."""
    return weighted_mean(uniform=uniform, per_row=True)


def total() -> contracts.Aggregator:
    """The aggregator of `Sum`."""

    def weigh(acc, deltas, weights, senders):
        return deltas, scale_of(weights, True), acc.sums

    def finish(acc, state, shared):
        return acc.total, state, {}

    return fold.fold(weigh, finish, linear=True, equal=True)


def scale_of(weights: jax.Array, uniform: bool) -> jax.Array:
    """Weights `[V]` as they are, or 1 for each present client."""
    return (weights > 0).astype(weights.dtype) if uniform else weights
