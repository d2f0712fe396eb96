"""A running aggregate for each of several models."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders
from fedjax_rec.core.stacks import rows_first, select

MEMBER = "member"
"""Entry of `Senders.extras`, `[V, S]`: 1 for the models that a delta belongs to."""


@struct
class ClusterFolds:
    """Accumulators of `S` clusters.

    Attributes:
        folds: accumulators of the inner rule, leaves `[S, ...]`.
        members: `[S]`, number of clients.
    """

    folds: Tree
    members: Array


def by_cluster(inner: Aggregator, num_clusters: int) -> Aggregator:
    """Aggregates the clients of each cluster separately.

    The shared parameters are a stack of models, a client's delta is that of one model,
    and `MEMBER` marks which. The model of a cluster without clients does not move.

    Args:
        inner: rule within a cluster, without a state between rounds.
        num_clusters: `S`.

    Returns:
        An aggregator; `info` has the share of the largest cluster, `cluster_most`.

    Raises:
        ValueError: `num_clusters` is below 1; in `init`, if the inner rule has a state.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters={num_clusters}, expected at least 1")

    def init(shared: Tree, cohort_size: int) -> ClusterFolds:
        model = select(shared, 0)
        if jax.tree.leaves(inner.start(model)):
            raise ValueError(
                "clusters need an aggregation rule without a state between rounds, "
                "such as a mean"
            )
        fold = inner.init(model, cohort_size)
        folds = jax.tree.map(
            lambda x: jnp.zeros((num_clusters, *x.shape), x.dtype), fold
        )
        dtype = jax.tree.leaves(model)[0].dtype
        return ClusterFolds(folds=folds, members=jnp.zeros(num_clusters, dtype))

    def update(
        acc: ClusterFolds, deltas: Tree, weights: Array, senders: Senders
    ) -> ClusterFolds:
        by_model = jnp.where(senders.extras[MEMBER].T > 0, weights, 0)  # [S, V]
        folds = jax.vmap(lambda fold, w: inner.update(fold, deltas, w, senders))(
            acc.folds, by_model
        )
        count = (by_model > 0).sum(1).astype(acc.members.dtype)
        return ClusterFolds(folds=folds, members=acc.members + count)

    def finish(acc: ClusterFolds, state: Tree, shared: Tree):
        model = select(shared, 0)
        delta = jax.vmap(lambda fold: inner.finish(fold, (), model)[0])(acc.folds)
        most = acc.members.max() / jnp.maximum(acc.members.sum(), 1)
        return rows_first(delta), state, {"cluster_most": most}

    return Aggregator(init, update, finish)
