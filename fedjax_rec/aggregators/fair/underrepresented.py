"""Means in which clients with few examples count for more than those."""

import jax.numpy as jnp

from fedjax_rec.aggregators.reweighted import reweighted
from fedjax_rec.core.contracts import Aggregator


def by_size(power: float = 0.5, inner: Aggregator | None = None) -> Aggregator:
    """Clients in proportion to `n_i ** power`: those with few examples count for more.

    1 is FedAvg, 0 the uniform mean; below 0 the fewest examples count most.

    Args:
        power: of the number of examples.
        inner: as in `reweighted`.

    Returns:
        An aggregator.
    """

    def factor(deltas, weights, senders, lengths):
        del deltas, senders, lengths
        return jnp.where(weights > 0, weights, 1) ** (power - 1)

    return reweighted(factor, inner)


def by_effective_number(
    beta: float = 0.99, inner: Aggregator | None = None
) -> Aggregator:
    """Clients in proportion to `(1 - beta^n_i) / (1 - beta)`, their effective examples.

    Examples of one client overlap in what they show, so that the worth of one more
    falls off, by `beta`: 0 is the uniform mean, towards 1 it is FedAvg.

    Args:
        beta: in `[0, 1)`.
        inner: as in `reweighted`.

    Returns:
        An aggregator.

    Raises:
        ValueError: `beta` is not in `[0, 1)`.

    References:
        Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019,
        of which this is the number, for clients in place of classes.
    """
    if not 0 <= beta < 1:
        raise ValueError(f"beta={beta}, expected in [0, 1)")

    def factor(deltas, weights, senders, lengths):
        del deltas, senders, lengths
        n = jnp.where(weights > 0, weights, 1)
        return (1 - beta**n) / (1 - beta) / n

    return reweighted(factor, inner)
