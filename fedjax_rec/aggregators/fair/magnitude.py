"""Means that weigh clients by how far they moved."""

import jax.numpy as jnp

from fedjax_rec.aggregators.norms import squared_norms
from fedjax_rec.aggregators.reweighted import reweighted
from fedjax_rec.core.contracts import Aggregator


def by_magnitude(power: float = -1.0, inner: Aggregator | None = None) -> Aggregator:
    """Clients in proportion to `n_i ||delta_i|| ** power`.

    With -1 the mean is one of directions, scaled to `sum n_i / sum (n_i / ||delta_i||)`
    as their common length: nobody prevails by a large step. Positive powers favour
    who has most to tell, as HetLoRA does for low-rank products with 1; 0 is FedAvg.
    A client that did not move counts as one that moved by 1e-12.

    Args:
        power: of the norm over all leaves.
        inner: as in `reweighted`.

    Returns:
        An aggregator.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024 (power 1).
    """

    def factor(deltas, weights, senders, lengths):
        del weights, senders
        squares = squared_norms(deltas, lengths).sum(-1)
        return jnp.maximum(squares, 1e-24) ** (power / 2)

    return reweighted(factor, inner)
