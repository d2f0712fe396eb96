"""Clusters of clients whose profiles are alike, fixed before training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators.clusters import by_cluster
from fedjax_rec.aggregators.spherical_k_means import (
    nearest_center,
    spherical_k_means,
)
from fedjax_rec.algorithms.clustered import CLUSTER
from fedjax_rec.algorithms.stacked import stacked
from fedjax_rec.core.contracts import ClientResult, Params, Recipe


def clustered_by_profile(
    recipe: Recipe, num_clusters: int, profiles: Any, seed: int = 0
) -> Recipe:
    """Trains `S` models, one for each group of clients with like profiles.

    Groups come of spherical k-means over all clients' profiles before the first round,
    and stay. All models start alike; a client receives, trains and is evaluated by its
    group's. One whose profile is zeros, as of who holds nothing, goes with the first.

    Args:
        recipe: of one model, not lifted.
        num_clusters: `S`.
        profiles: `[N, p]`, such as the mean of the embeddings of a client's texts.
        seed: of the starts of k-means.

    Returns:
        A recipe of the same system.

    Raises:
        ValueError: the recipe is lifted, has a codec or an attack; there are more
            clusters than clients with a profile.
    """
    some = int((np.abs(profiles).sum(1) > 0).sum())
    if not 1 <= num_clusters <= some:
        raise ValueError(
            f"num_clusters={num_clusters}, and {some} clients have a profile that is "
            "not zero: expected from 1 to that many"
        )
    member = np.asarray(group_by_profile(profiles, num_clusters, seed))

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        one, mine = take(params), params.personal[CLUSTER]
        result = recipe.client_update(one, frozen, examples, hparams, key)
        personal = {**result.personal, CLUSTER: mine}
        return dataclasses.replace(result, personal=personal, profile=mine)

    made = stacked(
        recipe,
        num_clusters,
        lambda params: jnp.argmax(params.personal[CLUSTER]),
        personal={CLUSTER: jnp.zeros(num_clusters)},
        alike=True,
    )
    assert made.stack is not None
    take = made.stack.take
    return made._replace(
        client_update=update,
        aggregator=by_cluster(recipe.aggregator, num_clusters),
        given={**(recipe.given or {}), CLUSTER: np.eye(num_clusters)[member]},
    )


def group_by_profile(profiles: Any, num_clusters: int, seed: int = 0) -> jax.Array:
    """`[N]` int32, each client's group.

    Args:
        profiles: `[N, p]`.
        num_clusters: `S`.
        seed: of the starts.
    """
    points = jnp.asarray(profiles)
    centers = spherical_k_means(points, num_clusters, jax.random.key(seed))
    return nearest_center(points, centers)
