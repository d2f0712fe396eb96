"""Clusters of clients whose updates of a common model point the same way."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

with epy.lazy_imports():
    import jax.numpy as jnp

    from fedjax_rec.aggregators import clusters, groups, spherical_k_means
    from fedjax_rec.contrib import split_by_update
    from fedjax_rec.core import contracts, count_sketch, rows, stacks, trees

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.context import Context

SKETCH = "sketch"
"""Personal group `[m]`: sketch of the client's last delta of the common model."""


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
        assert recipe is not None
        common, m = self.clusters, self.sketch

        def index_of(params) -> Array:
            centers, own = (
                params.shared[split_by_update.CENTERS],
                params.personal[SKETCH],
            )
            known = centers.any() & own.any()
            nearest = spherical_k_means.nearest_center(own, centers)
            return jnp.where(known, nearest, common)

        made = stacks.stacked(
            recipe,
            common + 1,
            index_of,
            personal={SKETCH: jnp.zeros(m)},
            shared={split_by_update.CENTERS: jnp.zeros((common, m))},
            equal_start=True,
        )
        return made._replace(
            client_update=self._update(recipe, made, index_of),
            aggregator=split_by_update.split_by_update(
                recipe.aggregator, common, warm_rounds=self.warm_rounds, sketch=m
            ),
            server_optimizer=groups.unchanged(
                (split_by_update.CENTERS,), recipe.server_optimizer
            ),
        )

    def _update(self, recipe, made, index_of) -> contracts.ClientUpdate:
        common, take = self.clusters, made.model.stack.take

        def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
            index, model = index_of(params), take(params)
            previous = params.personal[SKETCH]
            centers = params.shared[split_by_update.CENTERS]
            result = recipe.client_update(model, frozen, examples, hparams, key)
            lengths = rows.table_lengths(model.shared)
            sketch = count_sketch.sketch(result.delta, lengths, 1, self.sketch)[0]
            sketch = sketch.astype(previous.dtype)
            on_common = (index == common) & (result.weight > 0)
            member = jnp.arange(common + 1) == index
            member = jnp.where(centers.any(), member & (index != common), True)
            extras = {
                clusters.MEMBER: member.astype(sketch.dtype),
                split_by_update.SKETCH: sketch,
            }
            zeros = jnp.zeros_like(centers)
            return dataclasses.replace(
                result,
                delta={**result.delta, split_by_update.CENTERS: zeros},
                personal={
                    **result.personal,
                    SKETCH: trees.where(on_common, sketch, previous),
                },
                extras={**result.extras, **extras},
            )

        return update
