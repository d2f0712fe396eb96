"""Rules that weigh clients by examples, local steps, or the length of their deltas."""

from __future__ import annotations

import dataclasses

from etils import epy

from fedjax_rec.core.checks import check_ranges
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.core import contracts, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class BySize:
    """A mean with weights `n_i ** power`, so that small clients count for more.

    Attributes:
        power: exponent of the number of examples: 1 is FedAvg, 0 the uniform mean;
            below 0 clients with the fewest examples count most.
        per_row: average each row over the clients that touched it.
    """

    power: float = 0.5
    per_row: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, power="(-inf, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def weigh(deltas, weights, senders, lengths):
            return weights * jnp.where(weights > 0, weights, 1) ** (self.power - 1)

        return fold.mean(weigh, per_row=self.per_row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByEffectiveNumber:
    """A mean with weights `(1 - beta^n_i) / (1 - beta)`, numbers of effective examples.

    Examples of one client overlap, so that each further one is worth less.

    Attributes:
        beta: 0 is the uniform mean, towards 1 it is FedAvg.
        per_row: average each row over the clients that touched it.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
        there with classes in place of clients.
    """

    beta: float = 0.99
    per_row: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, beta="[0, 1)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def weigh(deltas, weights, senders, lengths):
            n = jnp.where(weights > 0, weights, 1)
            return weights * ((1 - self.beta**n) / (1 - self.beta) / n)

        return fold.mean(weigh, per_row=self.per_row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByMagnitude:
    """A mean with weights `n_i ||delta_i|| ** power`.

    At -1 it is a mean of directions with the common length `sum n_i / sum (n_i /
    ||delta_i||)`, so that no client prevails by a large step. A zero delta counts as
    one of length 1e-12.

    Attributes:
        power: exponent of the norm over all leaves; above 0 large deltas count more (1
            as in HetLoRA, for products of low rank); 0 is FedAvg.
        per_row: average each row over the clients that touched it.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024 (power 1).
    """

    power: float = -1.0
    per_row: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, power="(-inf, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def weigh(deltas, weights, senders, lengths):
            squares = fold.squared_norms(deltas, lengths).sum(-1)
            return weights * jnp.maximum(squares, 1e-24) ** (self.power / 2)

        return fold.mean(weigh, per_row=self.per_row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attentive:
    """FedAtt: `step sum_i alpha_i^l delta_i^l`, `alpha^l = softmax_i ||delta_i^l||`.

    A layer `l` is a leaf; a table is one. Numbers of examples do not count. Norms over
    `temperature` are clipped to 60.

    Attributes:
        temperature: temperature of the softmax, in the unit of the deltas; 1 in the
            paper. As it grows, the rule becomes the uniform mean.
        step: `epsilon` of the paper.

    References:
        Ji et al., Learning Private Neural Language Modeling with Attentive
        Aggregation, IJCNN 2019.
    """

    temperature: float = 1.0
    step: float = 1.0

    def __post_init__(self) -> None:
        check_ranges(self, temperature="(0, inf)", step="(-inf, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def sums(shared, cohort_size):
            return jnp.zeros(len(jax.tree.leaves(shared)), fold.scalar(shared).dtype)

        def weigh(acc, deltas, weights, senders):
            squares = fold.squared_norms(deltas, rows.table_lengths(acc.total))
            exponent = jnp.minimum(jnp.sqrt(squares) / self.temperature, fold.LARGEST)
            attention = jnp.where(weights[:, None] > 0, jnp.exp(exponent), 0)
            return deltas, attention, acc.sums + attention.sum(0)

        def finish(acc, state, shared):
            scale = self.step / jnp.where(acc.sums > 0, acc.sums, 1)
            leaves, structure = jax.tree.flatten(acc.total)
            delta = [s * x for s, x in zip(scale, leaves, strict=True)]
            return structure.unflatten(delta), state, {}

        return fold.fold(weigh, finish, sums)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedNova:
    """`tau_eff sum_i p_i delta_i / |a_i|`, with `tau_eff = sum_i p_i |a_i|`.

    `|a_i|` is the length of `tau_i` local steps along a constant gradient, in steps of
    plain SGD: `tau_i` without momentum, and `(tau_i - m (1 - m^tau_i) / (1 - m)) / (1 -
    m)` with momentum `m`. If all clients take the same number of steps, it is FedAvg;
    otherwise FedAvg minimizes another function than the sum of the clients' losses.
    `info` has `tau_eff`, as `effective_steps`.

    References:
        Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous
        Federated Optimization, NeurIPS 2020.
    """

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator for the local steps of `context.recipe`.

        Raises:
            ValueError: the local steps are not those of SGD.
        """
        steps, momentum = context.recipe.local.steps, context.recipe.local.momentum
        if steps is None or not 0 <= momentum < 1:
            raise ValueError(
                "FedNova counts local steps of SGD, with momentum in [0, 1): expected "
                "such a client optimizer, and no proximal term"
            )

        def sums(shared, cohort_size):
            return fold.scalar(shared), fold.scalar(shared)

        def weigh(acc, deltas, weights, senders):
            tau = steps(weights)
            lag = momentum * (1 - momentum**tau) / (1 - momentum)
            length = (tau - lag) / (1 - momentum)
            total, weight = acc.sums
            new = total + (weights * length).sum(), weight + weights.sum()
            return deltas, weights / jnp.where(length > 0, length, 1), new

        def finish(acc, state, shared):
            total, weight = acc.sums
            n = jnp.where(weight > 0, weight, 1)
            effective = total / n
            delta = jax.tree.map(lambda x: effective * x / n, acc.total)
            return delta, state, {"effective_steps": effective}

        return fold.fold(weigh, finish, sums, linear=True)
