"""q-FedAvg: a mean that favours clients with a large loss."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_sum
from fedjax_rec.aggregators.norms import squared_norms
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.contracts import Aggregator, Senders

LEAST_LOSS = 1e-10
"""Losses are at least this, as in the authors' code: `F^(q - 1)` has to be finite."""


@struct
class FairSums:
    """Sums over clients.

    Attributes:
        total: the inner sum of `n_i F_i^q delta_i`.
        scale: scalar, of `n_i (F_i^q + q F_i^(q-1) L ||delta_i||^2)`.
        lengths: `I` of each table.
    """

    total: Tree
    scale: Array
    lengths: tuple[int, ...] = static()


def q_fedavg(
    q: float = 1.0, lipschitz: float = 1.0, *, uniform: bool = False
) -> Aggregator:
    """q-FFL by local updating: the step of `sum_i p_i F_i^(q+1) / (q+1)`.

    With `Delta_i = L F_i^q delta_i` and `h_i = L F_i^q + q F_i^(q-1) ||L delta_i||^2`,
    the delta is `sum_i n_i Delta_i / sum_i n_i h_i`. At `q = 0` it is FedAvg; the
    larger `q`, the more even the losses. Where the paper has the loss of the model a
    client received, `F_i` here is the mean over its local steps.

    Args:
        q: of fairness, at least 0.
        lipschitz: `L`, the paper's estimate of which is 1 over the learning rate of the
            local steps.
        uniform: `n_i` is 1, else the number of examples. The paper samples clients in
            proportion to their examples and has 1.

    Returns:
        An aggregator in O(1) memory in the cohort.

    Raises:
        ValueError: `q` is negative, or `lipschitz` not positive.

    References:
        Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020,
        algorithm 2.
    """
    if q < 0 or not lipschitz > 0:
        raise ValueError(
            f"q={q}, lipschitz={lipschitz}: expected q of at least 0, and a positive "
            "Lipschitz constant such as 1 / client_lr"
        )
    inner = weighted_sum()

    def init(shared: Tree, cohort_size: int) -> FairSums:
        total = inner.init(shared, cohort_size)
        return FairSums(
            total=total,
            scale=jnp.zeros_like(total.weight),
            lengths=rows.table_lengths(shared),
        )

    def update(
        acc: FairSums, deltas: Tree, weights: Array, senders: Senders
    ) -> FairSums:
        here = weights > 0
        n = here.astype(weights.dtype) if uniform else weights
        loss = jnp.maximum(senders.loss, LEAST_LOSS)
        tilt = loss**q
        squares = squared_norms(deltas, acc.lengths).sum(-1)
        curvature = q * loss ** (q - 1) * lipschitz * squares
        weighed = jnp.where(here, n * tilt, 0).astype(weights.dtype)
        scale = jnp.where(here, n * (tilt + curvature), 0).sum()
        return FairSums(
            total=inner.update(acc.total, deltas, weighed, senders),
            scale=acc.scale + scale.astype(acc.scale.dtype),
            lengths=acc.lengths,
        )

    def finish(acc: FairSums, state: Tree, shared: Tree):
        total, state, info = inner.finish(acc.total, state, shared)
        scale = jnp.where(acc.scale > 0, acc.scale, 1)
        return jax.tree.map(lambda x: x / scale, total), state, info

    return Aggregator(init, update, finish)
