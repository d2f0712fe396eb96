"""Clusters of clients with similar profiles, fixed before training."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from etils import epy

from fedjax_rec.clients.profile import ClientProfile

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec.aggregators import clusters, spherical_k_means
    from fedjax_rec.core import contracts, stacks

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context

CLUSTER = "cluster"
"""Personal group `[S]`: 1 for the client's cluster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusteredByProfile:
    """Trains one model for each of `clusters` groups of clients with similar profiles.

    The groups are the result of spherical k-means over all clients' profiles before the
    first round, and do not change. All models start equal; a client receives, trains
    and is evaluated by the model of its group. A client with a profile of zeros, such
    as one without examples, belongs to the first group.

    Attributes:
        clusters: number of models.
        profile: the client profiles.
        seed: seed of the starts of k-means.
    """

    clusters: int = 2
    profile: ClientProfile = dataclasses.field(default_factory=ClientProfile)
    seed: int = 0

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Raises:
            ValueError: there are more clusters than clients with a profile.
        """
        assert context.recipe is not None
        profiles = self.profile.vectors(context)
        return clustered_by_profile(context.recipe, self.clusters, profiles, self.seed)


def clustered_by_profile(
    recipe: contracts.Recipe, num_clusters: int, profiles: Any, seed: int = 0
) -> contracts.Recipe:
    """Wraps a recipe; see `ClusteredByProfile`.

    Args:
        recipe: a system with one model.
        num_clusters: `S`.
        profiles: `[N, p]`.
        seed: seed of the starts of k-means.

    Raises:
        ValueError: there are more clusters than clients with a profile.
    """
    with_profile = int((np.abs(profiles).sum(1) > 0).sum())
    if not 1 <= num_clusters <= with_profile:
        raise ValueError(
            f"clusters={num_clusters}, but {with_profile} clients have a profile that "
            "is not zero: expected a number from 1 to that"
        )
    member_of = np.asarray(group_by_profile(profiles, num_clusters, seed))
    made = stacks.stacked(
        recipe,
        num_clusters,
        lambda params: jnp.argmax(params.personal[CLUSTER]),
        personal={CLUSTER: jnp.zeros(num_clusters)},
        equal_start=True,
    )
    stack = made.model.stack
    assert stack is not None

    def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
        member = params.personal[CLUSTER]
        result = recipe.client_update(
            stack.take(params), frozen, examples, hparams, key
        )
        return dataclasses.replace(
            result,
            personal={**result.personal, CLUSTER: member},
            extras={**result.extras, clusters.MEMBER: member},
        )

    return made._replace(
        client_update=update,
        aggregator=clusters.by_cluster(recipe.aggregator, num_clusters),
        constants={
            **(recipe.constants or {}),
            CLUSTER: np.eye(num_clusters)[member_of],
        },
    )


def group_by_profile(profiles: Any, num_clusters: int, seed: int = 0) -> jax.Array:
    """Groups `[N]` int32 of clients with profiles `[N, p]`, by spherical k-means."""
    points = jnp.asarray(profiles)
    centers = spherical_k_means.spherical_k_means(
        points, num_clusters, jax.random.key(seed)
    )
    return spherical_k_means.nearest_center(points, centers)
