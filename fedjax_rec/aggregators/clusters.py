"""Several models at once: each client's delta goes to that of its cluster."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class ClusterFolds:
    """One running fold for each of `S` clusters.

    Attributes:
        folds: accumulators of the inner rule, leaves `[S, ...]`.
        members: `[S]`, clients that came.
    """

    folds: Tree
    members: Array


def select(stacked: Tree, index: Array | int) -> Tree:
    """One model of a stack.

    Args:
        stacked: dense leaves `[S, ...]`; tables `[I, S, ...]`, so that rows come first.
        index: below `S`.
    """

    def one(leaf):
        if rows.is_table(leaf):
            values = jnp.take(leaf.values, index, 1)
            return dataclasses.replace(leaf, values=values)
        return jnp.take(leaf, index, 0)

    return jax.tree.map(one, stacked, is_leaf=rows.is_table)


def rows_first(stacked: Tree) -> Tree:
    """From what `vmap` stacks, tables `[S, I, ...]`, to the order of `select`."""
    return rows.map_tables(
        lambda t: dataclasses.replace(t, values=jnp.moveaxis(t.values, 0, 1)), stacked
    )


def by_cluster(inner: Aggregator, num_clusters: int) -> Aggregator:
    """Folds the clients of each cluster by themselves.

    The shared parameters are a stack of models, a client's delta is that of one, and
    its `profile` `[S]` tells which, by a one. A cluster that nobody came from stays.

    Args:
        inner: the rule within a cluster; it keeps nothing between rounds.
        num_clusters: `S`.

    Returns:
        An aggregator; `info` tells the share of the largest cluster, `cluster_most`.

    Raises:
        ValueError: there is no cluster; in `init`, the inner rule has a state.
    """
    if num_clusters < 1:
        raise ValueError(f"num_clusters={num_clusters}, expected at least 1")

    def init(shared: Tree, cohort_size: int) -> ClusterFolds:
        model = select(shared, 0)
        if jax.tree.leaves(inner.start(model)):
            raise ValueError(
                "clusters need a rule that keeps nothing between rounds, such as a mean"
            )
        one = inner.init(model, cohort_size)
        folds = jax.tree.map(
            lambda x: jnp.zeros((num_clusters, *x.shape), x.dtype), one
        )
        dtype = jax.tree.leaves(model)[0].dtype
        return ClusterFolds(folds=folds, members=jnp.zeros(num_clusters, dtype))

    def update(
        acc: ClusterFolds, deltas: Tree, weights: Array, senders: Senders
    ) -> ClusterFolds:
        if senders.profile is None:
            raise ValueError(
                "clients tell their cluster in ClientResult.profile, which is None: "
                "make the recipe with algorithms.clustered.clustered"
            )
        own = jnp.where(senders.profile.T > 0, weights, 0)  # [S, V]
        folds = jax.vmap(lambda fold, w: inner.update(fold, deltas, w, senders))(
            acc.folds, own
        )
        came = (own > 0).sum(1).astype(acc.members.dtype)
        return ClusterFolds(folds=folds, members=acc.members + came)

    def finish(acc: ClusterFolds, state: Tree, shared: Tree):
        model = select(shared, 0)
        delta = jax.vmap(lambda fold: inner.finish(fold, (), model)[0])(acc.folds)
        most = acc.members.max() / jnp.maximum(acc.members.sum(), 1)
        return rows_first(delta), state, {"cluster_most": most}

    return Aggregator(init, update, finish)
