"""Clusters of clients whose updates of a common model point the same way."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from etils import epy

from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import clusters, groups
    from fedjax_rec.core import contracts, count_sketch, rows, stacks, trees

CENTERS = "centers"
"""Shared group `[S, m]`: directions of the clusters, zeros before the split."""


SKETCH = "sketch"
"""Personal group `[m]`: sketch of the client's last delta of the common model. Entry of
`Senders.extras`, `[V, m]`: sketches of the deltas."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusteredByUpdate:
    """Trains one model for `warm_rounds` rounds, and then one for each cluster.

    In the last warm round the server groups the deltas of its cohort by their cosine,
    and sends the mean directions of the groups to all clients; so that cohort should be
    large. A client that took part before keeps a sketch of its last delta, and joins
    the cluster with the nearest direction. A client that first comes after the split
    trains the common model once to find its cluster; its delta moves no model, so that
    without momentum on the server the common model stays. A client that never came is
    evaluated by the common model.

    Cosines are those of count sketches, with an error of about `1 / sqrt(m)`. Each
    client keeps `m` numbers; the server keeps `S + 1` models. The server could sketch
    the deltas that it receives, so sketches are not counted as sent, nor the `S m`
    numbers of the directions as received.

    Attributes:
        clusters: number of clusters, `S`.
        warm_rounds: rounds with one model.
        sketch: length of a sketch, `m`.

    References:
        Sattler, Müller and Samek, Clustered Federated Learning, IEEE TNNLS 2021, which
        splits clients by the cosine of their updates, repeatedly in two. Briggs, Fan
        and Andras, Federated Learning with Hierarchical Clustering of Local Updates,
        IJCNN 2020, which splits them once, after some rounds of one model.
    """

    clusters: int = 2
    warm_rounds: int = 10
    sketch: int = 256

    def __post_init__(self) -> None:
        if min(self.clusters, self.warm_rounds, self.sketch) < 1:
            raise ValueError(
                f"clusters={self.clusters}, warm_rounds={self.warm_rounds}, "
                f"sketch={self.sketch}: expected at least 1"
            )

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`."""
        recipe = context.recipe
        common, m = self.clusters, self.sketch

        def index_of(params) -> jax.Array:
            centers, own = params.shared[CENTERS], params.personal[SKETCH]
            known = centers.any() & own.any()
            nearest = clusters.nearest_center(own, centers)
            return jnp.where(known, nearest, common)

        made = stacks.stacked(
            recipe,
            common + 1,
            index_of,
            personal={SKETCH: jnp.zeros(m)},
            shared={CENTERS: jnp.zeros((common, m))},
            equal_start=True,
        )
        return made._replace(
            client_update=self._update(recipe, made, index_of),
            aggregator=split_by_update(
                recipe.aggregator, common, warm_rounds=self.warm_rounds, sketch=m
            ),
            server_optimizer=groups.unchanged((CENTERS,), recipe.server_optimizer),
        )

    def _update(self, recipe, made, index_of) -> contracts.ClientUpdate:
        common, take = self.clusters, made.model.stack.take

        def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
            index, model = index_of(params), take(params)
            previous = params.personal[SKETCH]
            centers = params.shared[CENTERS]
            result = recipe.client_update(model, frozen, examples, hparams, key)
            lengths = rows.table_lengths(model.shared)
            sketch = count_sketch.sketch(result.delta, lengths, 1, self.sketch)[0]
            sketch = sketch.astype(previous.dtype)
            on_common = (index == common) & (result.weight > 0)
            member = jnp.arange(common + 1) == index
            member = jnp.where(centers.any(), member & (index != common), True)
            return result.extended(
                delta={CENTERS: jnp.zeros_like(centers)},
                personal={SKETCH: trees.where(on_common, sketch, previous)},
                extras={
                    clusters.MEMBER: member.astype(sketch.dtype),
                    SKETCH: sketch,
                },
            )

        return update


class UpdateFolds(NamedTuple):
    """Accumulated deltas of a cohort.

    Attributes:
        folds: of the models.
        sketches: `[C, m]` sketches of the deltas; zeros if absent.
    """

    folds: clusters.ClusterFolds
    sketches: jax.Array


def split_by_update(
    inner: contracts.Aggregator,
    num_clusters: int,
    *,
    warm_rounds: int,
    sketch: int,
    seed: int = 0,
) -> contracts.Aggregator:
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
    models = clusters.by_cluster(inner, num_clusters + 1)

    def others(tree: Any) -> Any:
        return {name: part for name, part in tree.items() if name != CENTERS}

    def start(shared: Any) -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def init(shared: Any, cohort_size: int) -> UpdateFolds:
        if cohort_size < num_clusters:
            raise ValueError(
                f"a cohort of {cohort_size} cannot be split into {num_clusters} "
                "clusters by its updates: sample more clients, or ask for fewer"
            )
        folds = models.init(others(shared), cohort_size)
        sketches = jnp.zeros((cohort_size, sketch), shared[CENTERS].dtype)
        return UpdateFolds(folds=folds, sketches=sketches)

    def update(
        acc: UpdateFolds, deltas: Any, weights: jax.Array, senders: contracts.Senders
    ) -> UpdateFolds:
        slots = jnp.where(weights > 0, senders.slots, len(acc.sketches))
        sketches = senders.extras[SKETCH].astype(acc.sketches.dtype)
        return UpdateFolds(
            folds=models.update(acc.folds, others(deltas), weights, senders),
            sketches=acc.sketches.at[slots].add(sketches, mode="drop"),
        )

    def finish(acc: UpdateFolds, state: jax.Array, shared: Any):
        before = shared[CENTERS]
        delta, _, _ = models.finish(acc.folds, (), others(shared))
        enough = (acc.sketches != 0).any(1).sum() >= num_clusters
        warm = ~before.any()
        now = warm & (state + 1 >= warm_rounds) & enough
        centers = jax.lax.cond(
            now,
            lambda: clusters.spherical_k_means(
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

    return contracts.Aggregator(init, update, finish, start)
