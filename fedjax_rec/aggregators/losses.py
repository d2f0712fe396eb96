"""Rules that weigh clients by their loss, for fairness."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epy

from fedjax_rec.aggregators.means import Weights, scale_of
from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec.aggregators import fold, means
    from fedjax_rec.core import contracts, rows


LEAST_LOSS = 1e-10
"""Lower bound of losses, as in the authors' code: `F^(q - 1)` has to be finite."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tilted:
    """TERM: weights `n_i exp(t F_i)`, with the clients' losses `F_i`.

    The gradient of the tilted loss `1/t log sum_i p_i exp(t F_i)`. In the paper `F_i`
    is the loss of the model that a client received, here the mean over its local
    steps. Exponents are clipped to ±60.

    Attributes:
        tilt: `t`: above 0 clients with large losses count more, below 0 less; 0 is
            FedAvg.
        per_row: average each row over the clients that touched it.

    References:
        Li et al., Tilted Empirical Risk Minimization, ICLR 2021.
    """

    tilt: float = 1.0
    per_row: bool = False

    def __post_init__(self) -> None:
        check_ranges(self, tilt="(-inf, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def weigh(deltas, weights, senders, lengths):
            exponent = jnp.clip(self.tilt * senders.loss, -fold.LARGEST, fold.LARGEST)
            return weights * jnp.exp(exponent)

        return fold.mean(weigh, per_row=self.per_row)._replace(numbers=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QFedAvg:
    """q-FFL by local updating: a step of `sum_i p_i F_i^(q+1) / (q+1)`.

    With `Delta_i = L F_i^q delta_i` and `h_i = L F_i^q + q F_i^(q-1) ||L delta_i||^2`,
    the delta is `sum_i n_i Delta_i / sum_i n_i h_i`. In the paper `F_i` is the loss of
    the model that a client received, here the mean over its local steps.

    The paper estimates `L` by 1 over the learning rate. Where item rows have a rate
    of their own, `L ||delta_i||^2` is `||dense part||^2 / rate + ||rows||^2 / row
    rate`: the rule of the paper after a change of scale that makes both rates 1.

    Attributes:
        q: 0 is FedAvg; the larger it is, the more even are the losses.
        lipschitz: `L` of all parameters; by default from the learning rates.
        weights: `n_i`: the number of `examples`, or 1 (`uniform`). The paper samples
            clients in proportion to their examples and uses 1.

    References:
        Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020,
        algorithm 2.
    """

    q: float = 1.0
    lipschitz: float | None = None
    weights: Weights = "examples"

    def __post_init__(self) -> None:
        check_settings(self, q="[0, inf)", lipschitz="(0, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator.

        Raises:
            ValueError: `lipschitz` is `None`, and local training has no positive rate.
        """
        q = self.q
        of_rows, of_dense = self._lipschitz(context.recipe)

        def weigh(acc, deltas, weights, senders):
            present, n = weights > 0, scale_of(weights, self.weights == "uniform")
            loss = jnp.maximum(senders.loss, LEAST_LOSS)
            lengths = rows.table_lengths(acc.total)
            squares = fold.squared_norms(deltas, lengths)
            lipschitz = jnp.asarray([of_rows if n else of_dense for n in lengths])
            curvature = q * loss ** (q - 1) * (squares * lipschitz).sum(-1)
            scale = jnp.where(present, n * loss**q, 0).astype(weights.dtype)
            step = jnp.where(present, n * (loss**q + curvature), 0).sum()
            return deltas, scale, acc.sums + step.astype(acc.sums.dtype)

        def finish(acc, state, shared):
            return fold.divided(acc.total, acc.sums), state, {}

        return fold.fold(weigh, finish)._replace(numbers=1)

    def _lipschitz(self, recipe: Any) -> tuple[float, float]:
        """`L` of rows and of dense leaves."""
        if self.lipschitz is not None:
            return self.lipschitz, self.lipschitz
        local, rates = recipe.local, []
        for rate_of in (local.row_rate or local.rate, local.rate):
            rate = rate_of(recipe.hparams) if rate_of else 0
            if not rate > 0:
                raise ValueError(
                    "QFedAvg takes lipschitz from the learning rate of the local "
                    f"steps, and that is {rate}: set lipschitz"
                )
            rates.append(1 / rate)
        return rates[0], rates[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agnostic:
    """AFL: `min_w max_lambda sum_g lambda_g L_g(w)` over mixtures of groups of clients.

    Groups are quantiles of the clients' numbers of examples. The delta is `sum_g
    lambda_g mean_g(delta_i)` over the groups of the cohort, by examples within a group;
    then `lambda <- Proj(lambda + rate L_g)` (Euclidean) for the groups of the cohort.
    The server keeps `lambda`, uniform at first; memory is one mean per group. `info`
    has the largest weight of a group, `agnostic_most`.

    Attributes:
        groups: number of groups, `G`: 4 are quartiles.
        rate: step size of `lambda`; 0 weighs all groups the same.

    References:
        Mohri, Sivek and Suresh, Agnostic Federated Learning, ICML 2019.
    """

    groups: int = 4
    rate: float = 0.1

    def __post_init__(self) -> None:
        check_ranges(self, groups="[1, inf)", rate="[0, inf)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator.

        Raises:
            ValueError: there are more groups than clients.
        """
        inner, group_of = means.weighted_mean(), by_quantile(context, self.groups)

        def start(shared):
            dtype = fold.scalar(shared).dtype
            return jnp.full(self.groups, 1 / self.groups, dtype)

        def init(shared, cohort_size):
            fold_ = inner.init(shared, cohort_size)
            stack = jax.tree.map(lambda x: jnp.stack([x] * self.groups), fold_)
            return stack, *[jnp.zeros_like(start(shared))] * 2

        def update(acc, deltas, weights, senders):
            stack, loss, weight = acc
            group = group_of.at[senders.ids].get(mode="clip")
            member = jnp.arange(self.groups)[:, None] == group
            part = jnp.where(member, weights, 0)  # [G, V]
            stack = jax.vmap(lambda f, w: inner.update(f, deltas, w, senders))(
                stack, part
            )
            loss = loss + jnp.where(part > 0, part * senders.loss, 0).sum(1)
            return stack, loss, weight + part.sum(1)

        def finish(acc, state, shared):
            stack, loss, weight = acc
            present = weight > 0
            means_ = jax.vmap(lambda f: inner.finish(f, (), shared)[0])(stack)
            part = jnp.where(present, state, 0)
            part = fold.divided(part, part.sum())
            delta = jax.tree.map(lambda x: fold.dot(part, x).astype(x.dtype), means_)
            moved = project(state + self.rate * fold.divided(loss, weight))
            new = jnp.where(present.any(), moved, state)
            return delta, new, {"agnostic_most": new.max()}

        return contracts.Aggregator(init, update, finish, start, numbers=1)


def by_quantile(context: Context, groups: int) -> jax.Array:
    """Groups of clients by their number of examples, as equal in size as ties allow.

    Args:
        context: its `examples` `[N]`; clients with equal numbers share a group.
        groups: `G`, in ascending order.

    Returns:
        `[N]` int32.
    """
    examples = context.examples
    if groups > len(examples):
        raise ValueError(f"groups={groups}, but there are {len(examples)} clients")
    ends = np.quantile(examples, np.arange(1, groups) / groups)
    return jnp.asarray(np.searchsorted(ends, examples), jnp.int32)


def project(v: jax.Array) -> jax.Array:
    """The nearest point of the simplex to `v` `[G]`.

    References:
        Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
        Dimensions, ICML 2008, figure 1.

    >>> print(project(jnp.array([0.5, 1.0, -3.0])))
    [0.25 0.75 0.  ]
    """
    u = jnp.sort(v)[::-1]
    over = (jnp.cumsum(u) - 1) / jnp.arange(1, len(v) + 1)
    theta = over[jnp.sum(u > over) - 1]
    return jnp.maximum(v - theta, 0)
