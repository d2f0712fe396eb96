"""The server of `clustered_by_update`: it groups a cohort by its deltas."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.clusters import ClusterFolds, by_cluster
from fedjax_rec.aggregators.spherical_k_means import spherical_k_means
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders

CENTERS = "centers"
"""Shared group `[S, m]`: directions of the clusters, zeros before the split."""

SKETCH = "sketch"
"""Entry of `Senders.extras`, `[V, m]`: sketches of the deltas."""


@struct
class UpdateFolds:
    """Accumulated deltas of a cohort.

    Attributes:
        folds: of the models.
        sketches: `[C, m]` sketches of the deltas; zeros if absent.
    """

    folds: ClusterFolds
    sketches: Array


def split_by_update(
    inner: Aggregator,
    num_clusters: int,
    *,
    warm_rounds: int,
    sketch: int,
    seed: int = 0,
) -> Aggregator:
    """Folds `S + 1` models, and finds the clusters after `warm_rounds`.

    Before the split the clients mark all models as theirs, so that these stay equal.
    From round `warm_rounds` on, the first cohort with at least one client per cluster
    decides: the centers of spherical k-means over its sketches become the shared group
    `CENTERS`.

    Memory: `S + 1` folds, and `C m` numbers.

    Args:
        inner: rule within a cluster, without a state between rounds.
        num_clusters: `S`.
        warm_rounds: rounds with one model, at least 1.
        sketch: `m`.
        seed: seed of the starts of k-means.

    Returns:
        An aggregator; `info` has `split` (0 or 1) and `cluster_most`, the share of the
        largest cluster (1 before the split).

    Raises:
        ValueError: in `init`, if the cohort is smaller than the number of clusters.
    """
    models = by_cluster(inner, num_clusters + 1)

    def others(tree: Tree) -> Tree:
        return {name: part for name, part in tree.items() if name != CENTERS}

    def start(shared: Tree) -> Array:
        del shared
        return jnp.zeros((), jnp.int32)

    def init(shared: Tree, cohort_size: int) -> UpdateFolds:
        if cohort_size < num_clusters:
            raise ValueError(
                f"a cohort of {cohort_size} cannot be split into {num_clusters} "
                "clusters by its updates: sample more clients, or ask for fewer"
            )
        folds = models.init(others(shared), cohort_size)
        sketches = jnp.zeros((cohort_size, sketch), shared[CENTERS].dtype)
        return UpdateFolds(folds=folds, sketches=sketches)

    def update(
        acc: UpdateFolds, deltas: Tree, weights: Array, senders: Senders
    ) -> UpdateFolds:
        slots = jnp.where(weights > 0, senders.slots, len(acc.sketches))
        sketches = senders.extras[SKETCH].astype(acc.sketches.dtype)
        return UpdateFolds(
            folds=models.update(acc.folds, others(deltas), weights, senders),
            sketches=acc.sketches.at[slots].add(sketches, mode="drop"),
        )

    def finish(acc: UpdateFolds, state: Array, shared: Tree):
        before = shared[CENTERS]
        delta, _, _ = models.finish(acc.folds, (), others(shared))
        enough = (acc.sketches != 0).any(1).sum() >= num_clusters
        warm = ~before.any()
        now = warm & (state + 1 >= warm_rounds) & enough
        centers = jax.lax.cond(
            now,
            lambda: spherical_k_means(
                acc.sketches, num_clusters, jax.random.key(seed)
            ).astype(before.dtype),
            lambda: before,
        )
        members = acc.folds.members[:num_clusters]
        most = members.max() / jnp.maximum(members.sum(), 1)
        info = {
            "cluster_most": jnp.where(warm, 1, most),
            "split": (~warm).astype(most.dtype),
        }
        return {**delta, CENTERS: centers - before}, state + 1, info

    return Aggregator(init, update, finish, start)
