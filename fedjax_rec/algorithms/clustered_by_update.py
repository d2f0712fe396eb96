"""Clusters of clients whose updates of a common model point the same way."""

import dataclasses

import jax.numpy as jnp

from fedjax_rec.aggregators.clusters_by_update import CENTERS, by_update
from fedjax_rec.aggregators.spherical_k_means import nearest_center
from fedjax_rec.algorithms.server_step import except_for
from fedjax_rec.algorithms.stacked import stacked
from fedjax_rec.core import count_sketch as sketches
from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.contracts import ClientResult, Params, Recipe

SKETCH = "sketch"
"""The personal group `[m]`: of the client's last delta of the common model."""


def clustered_by_update(
    recipe: Recipe, num_clusters: int, *, warm_rounds: int = 10, sketch: int = 256
) -> Recipe:
    """Trains one model for some rounds, and from there on one for each cluster.

    In the last of `warm_rounds` the server groups the deltas of its cohort by their
    cosine, and sends the groups' mean directions to everybody; so that cohort should be
    large. Who came before keeps a sketch of its last delta, and takes the cluster whose
    direction is nearest. Who comes first after the split trains the common model once,
    to find its cluster; its delta moves nothing, so that without momentum on the server
    the common model stays. Who never came is evaluated by it.

    Cosines are those of count sketches, whose error is about `1 / sqrt(m)`. Each
    client keeps `m` numbers, wherever personal state lies; the server keeps `S + 1`
    models. The server could sketch the deltas that it gets, so the sketch is not
    counted as sent, nor are the `S m` numbers of the directions as received.

    Args:
        recipe: of one model, not lifted.
        num_clusters: `S`.
        warm_rounds: of one model.
        sketch: `m`.

    Returns:
        A recipe of the same system.

    Raises:
        ValueError: the recipe is lifted, has a codec or an attack, or one of the
            numbers is below 1.

    References:
        Sattler, Müller and Samek, Clustered Federated Learning, IEEE TNNLS 2021, which
        parts clients by the cosine of their updates, in two and two again. Briggs, Fan
        and Andras, Federated Learning with Hierarchical Clustering of Local Updates,
        IJCNN 2020, which parts them once, after some rounds of one model.
    """
    rule = by_update(
        recipe.aggregator, num_clusters, warm_rounds=warm_rounds, sketch=sketch
    )
    common = num_clusters

    def index_of(params: Params) -> Array:
        centers, mine = params.shared[CENTERS], params.personal[SKETCH]
        known = centers.any() & mine.any()
        return jnp.where(known, nearest_center(mine, centers), common)

    made = stacked(
        recipe,
        num_clusters + 1,
        index_of,
        personal={SKETCH: jnp.zeros(sketch)},
        shared={CENTERS: jnp.zeros((num_clusters, sketch))},
        alike=True,
    )
    assert made.stack is not None
    take = made.stack.take

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        index, one = index_of(params), take(params)
        before, centers = params.personal[SKETCH], params.shared[CENTERS]
        result = recipe.client_update(one, frozen, examples, hparams, key)
        lengths = rows.table_lengths(one.shared)
        own = sketches.sketch(result.delta, lengths, 1, sketch)[0].astype(before.dtype)
        on_common = (index == common) & (result.weight > 0)
        kept = trees.where(on_common, own, before)
        member = jnp.arange(num_clusters + 1) == index
        member = jnp.where(centers.any(), member & (index != common), True)
        return dataclasses.replace(
            result,
            delta={**result.delta, CENTERS: jnp.zeros_like(centers)},
            personal={**result.personal, SKETCH: kept},
            profile=jnp.concatenate([member.astype(own.dtype), own]),
        )

    def server_optimizer(hparams):
        return except_for((CENTERS,), recipe.server_optimizer(hparams))

    return made._replace(
        client_update=update,
        aggregator=rule,
        server_optimizer=server_optimizer,
        fixed=(*recipe.fixed, CENTERS),
    )
