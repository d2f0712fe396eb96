"""Dynamic weights: clients whose loss falls slowly count for more."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.aggregators.reweighted import MOST
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class TrendSums:
    """Sums over clients, and what the server knows of them.

    Attributes:
        inner: of the mean.
        loss: `[N]`, of those of the cohort.
        seen: `[N]`, 1 for those of the cohort.
        last: `[N]`, the losses before; not a sum, and not read at the end.
    """

    inner: Tree
    loss: Array
    seen: Array
    last: Array


def by_trend(num_clients: int, temperature: float = 2.0) -> Aggregator:
    """Clients in proportion to `n_i exp((F_i / F_i^last) / T)`.

    `F_i^last` is the loss in the last round that `i` took part in. This is the dynamic
    weight average of multi-task learning, with clients for tasks; that one takes the
    ratio of the two losses before, since its weights have to be there first. A client's
    first ratio is 1.

    Args:
        num_clients: `N`.
        temperature: `T`; infinite is FedAvg, and 2 is the paper's.

    Returns:
        An aggregator with `3 N` numbers beside the mean; the server keeps `N` losses.

    Raises:
        ValueError: there is no client, or the temperature is not positive.

    References:
        Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention, CVPR
        2019, section 3.3.
    """
    if num_clients < 1 or not temperature > 0:
        raise ValueError(
            f"num_clients={num_clients}, temperature={temperature}: expected at least "
            "one client and a positive temperature"
        )
    inner = weighted_mean()

    def start(shared: Tree) -> Array:
        """Losses; 0 is that of nobody yet."""
        return jnp.zeros(num_clients, jax.tree.leaves(shared)[0].dtype)

    def init(shared: Tree, cohort_size: int) -> TrendSums:
        none = start(shared)
        acc = inner.init(shared, cohort_size)
        return TrendSums(inner=acc, loss=none, seen=none, last=none)

    def begin(acc: TrendSums, state: Array) -> TrendSums:
        return TrendSums(inner=acc.inner, loss=acc.loss, seen=acc.seen, last=state)

    def update(
        acc: TrendSums, deltas: Tree, weights: Array, senders: Senders
    ) -> TrendSums:
        here = weights > 0
        ids = jnp.where(here, senders.ids, num_clients)
        last = acc.last.at[ids].get(mode="clip")
        ratio = jnp.where(last > 0, senders.loss / jnp.where(last > 0, last, 1), 1)
        factor = jnp.exp(jnp.clip(ratio / temperature, -MOST, MOST))
        scaled = jnp.where(here, weights * factor, 0).astype(weights.dtype)
        loss = jnp.where(here, senders.loss, 0).astype(acc.loss.dtype)
        return TrendSums(
            inner=inner.update(acc.inner, deltas, scaled, senders),
            loss=acc.loss.at[ids].add(loss, mode="drop"),
            seen=acc.seen.at[ids].add(1, mode="drop"),
            last=acc.last,
        )

    def finish(acc: TrendSums, state: Array, shared: Tree):
        delta, _, info = inner.finish(acc.inner, (), shared)
        return delta, jnp.where(acc.seen > 0, acc.loss, state), info

    return Aggregator(init, update, finish, start, begin=begin)
