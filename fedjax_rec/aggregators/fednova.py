"""FedNova: nobody gains weight by taking more local steps."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_sum
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders

Steps = Callable[[Array], Array]


@struct
class NormalizedSums:
    """Sums over clients.

    Attributes:
        total: the inner sum of `n_i delta_i / |a_i|`.
        steps: scalar, of `n_i |a_i|`.
        weight: scalar, of `n_i`.
    """

    total: Tree
    steps: Array
    weight: Array


def fednova(steps: Steps, momentum: float = 0.0) -> Aggregator:
    """`tau_eff sum_i p_i delta_i / |a_i|`, with `tau_eff = sum_i p_i |a_i|`.

    `|a_i|` is how far `tau_i` local steps of a constant gradient go, in steps of plain
    SGD: `tau_i` without momentum, and `(tau_i - m (1 - m^tau_i) / (1 - m)) / (1 - m)`
    with `m`. Where all clients take equally many steps it is FedAvg; elsewhere FedAvg
    descends another function than the sum of the clients' losses.

    Args:
        steps: `(examples [V]) -> tau [V]`, such as `clients.steps.local_steps(...)`.
        momentum: of the local SGD.

    Returns:
        An aggregator in O(1) memory in the cohort; `info` tells `effective_steps`.

    Raises:
        ValueError: `momentum` is not in `[0, 1)`.

    References:
        Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous
        Federated Optimization, NeurIPS 2020.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}, expected in [0, 1)")
    inner = weighted_sum()

    def init(shared: Tree, cohort_size: int) -> NormalizedSums:
        total = inner.init(shared, cohort_size)
        zero = jnp.zeros_like(total.weight)
        return NormalizedSums(total=total, steps=zero, weight=zero)

    def update(
        acc: NormalizedSums, deltas: Tree, weights: Array, senders: Senders
    ) -> NormalizedSums:
        tau = steps(weights)
        rest = momentum * (1 - momentum**tau) / (1 - momentum)
        length = (tau - rest) / (1 - momentum)
        normalized = weights / jnp.where(length > 0, length, 1)
        return NormalizedSums(
            total=inner.update(acc.total, deltas, normalized, senders),
            steps=acc.steps + (weights * length).sum(),
            weight=acc.weight + weights.sum(),
        )

    def finish(acc: NormalizedSums, state: Tree, shared: Tree):
        total, state, _ = inner.finish(acc.total, state, shared)
        n = jnp.where(acc.weight > 0, acc.weight, 1)
        effective = acc.steps / n
        delta = jax.tree.map(lambda x: effective * x / n, total)
        return delta, state, {"effective_steps": effective}

    return Aggregator(init, update, finish, linear=True)
