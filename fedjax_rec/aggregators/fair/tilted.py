"""TERM: a mean that favours, or discounts, clients with a large loss."""

import jax.numpy as jnp

from fedjax_rec.aggregators.reweighted import MOST, reweighted
from fedjax_rec.core.contracts import Aggregator, Senders


def tilted(t: float = 1.0, inner: Aggregator | None = None) -> Aggregator:
    """TERM: clients in proportion to `n_i exp(t F_i)`, with their loss `F_i`.

    The gradient of the tilted loss `1/t log sum_i p_i exp(t F_i)`: with `t > 0` who
    fares badly counts more, with `t < 0` less, as outliers might; `t = 0` is FedAvg.
    Where the paper has the loss of the model a client received, this is the mean over
    its local steps. Exponents are cut to `MOST` in size.

    Args:
        t: the tilt.
        inner: as in `reweighted`.

    Returns:
        An aggregator.

    References:
        Li et al., Tilted Empirical Risk Minimization, ICLR 2021.
    """

    def factor(deltas, weights, senders: Senders, lengths):
        del deltas, weights, lengths
        return jnp.exp(jnp.clip(t * senders.loss, -MOST, MOST))

    return reweighted(factor, inner)
