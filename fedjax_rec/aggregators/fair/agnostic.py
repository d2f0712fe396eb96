"""Agnostic federated learning: the mixture of groups that is worst for the model."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class GroupSums:
    """One running mean for each of `G` groups.

    Attributes:
        means: of the groups, leaves `[G, ...]`.
        loss: `[G]`, the summed loss of their clients times weight.
        weight: `[G]`.
    """

    means: Tree
    loss: Array
    weight: Array


def agnostic(
    group_of: Callable[[Array], Array], num_groups: int, rate: float = 0.1
) -> Aggregator:
    """AFL: `min_w max_lambda sum_g lambda_g L_g(w)` over the simplex of mixtures.

    The delta is `sum_g lambda_g mean_g(delta_i)`, over the groups of this cohort, by
    examples within a group; then `lambda <- Proj(lambda + rate L_g)`, Euclidean, for
    the groups that were there. The server keeps `lambda`, uniform at first, between
    rounds. Its price is a mean for each group.

    Args:
        group_of: `(client ids [V]) -> [V]` groups; the identity makes each client one.
        num_groups: `G`.
        rate: `gamma_lambda`; 0 weighs all groups the same.

    Returns:
        An aggregator; `info` tells the largest mixture weight, `agnostic_most`.

    Raises:
        ValueError: there is no group, or `rate` is negative.

    References:
        Mohri, Sivek and Suresh, Agnostic Federated Learning, ICML 2019.
    """
    if num_groups < 1 or rate < 0:
        raise ValueError(
            f"num_groups={num_groups}, rate={rate}: expected at least one group and a "
            "rate of at least 0"
        )
    inner = weighted_mean()

    def init(shared: Tree, cohort_size: int) -> GroupSums:
        one = inner.init(shared, cohort_size)
        weight = jnp.zeros(num_groups, one.weight.dtype)
        return GroupSums(
            means=jax.tree.map(
                lambda x: jnp.zeros((num_groups, *x.shape), x.dtype), one
            ),
            loss=weight,
            weight=weight,
        )

    def update(
        acc: GroupSums, deltas: Tree, weights: Array, senders: Senders
    ) -> GroupSums:
        groups = jnp.arange(num_groups)[:, None]
        own = jnp.where(group_of(senders.ids) == groups, weights, 0)  # [G, V]
        means = jax.vmap(lambda m, w: inner.update(m, deltas, w, senders))(
            acc.means, own
        )
        return GroupSums(
            means=means,
            loss=acc.loss + jnp.where(own > 0, own * senders.loss, 0).sum(1),
            weight=acc.weight + own.sum(1),
        )

    def finish(acc: GroupSums, state: Array, shared: Tree):
        here = acc.weight > 0
        means, _, _ = jax.vmap(lambda m: inner.finish(m, (), shared))(acc.means)
        part = jnp.where(here, state, 0)
        part /= jnp.where(part.sum() > 0, part.sum(), 1)
        delta = jax.tree.map(lambda x: jnp.tensordot(part, x, 1).astype(x.dtype), means)
        loss = acc.loss / jnp.where(here, acc.weight, 1)
        moved = project(state + rate * loss)
        new = jnp.where(here.any(), moved, state)
        return delta, new, {"agnostic_most": new.max()}

    def start(shared: Tree) -> Array:
        dtype = jax.tree.leaves(shared)[0].dtype
        return jnp.full(num_groups, 1 / num_groups, dtype)

    return Aggregator(init, update, finish, start)


def project(v: Array) -> Array:
    """The nearest point of the simplex to `v` `[G]`.

    References:
        Duchi et al., Efficient Projections onto the l1-Ball for Learning in High
        Dimensions, ICML 2008, figure 1.

    >>> print(project(jnp.array([0.5, 1.1, -3.0])))
    [0.2 0.8 0. ]
    """
    u = jnp.sort(v)[::-1]
    over = (jnp.cumsum(u) - 1) / jnp.arange(1, len(v) + 1)
    theta = over[jnp.sum(u > over) - 1]
    return jnp.maximum(v - theta, 0)
