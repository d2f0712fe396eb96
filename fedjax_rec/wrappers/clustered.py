"""A model for each cluster of clients, chosen by each client or fixed by profiles."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epy

from fedjax_rec.clients.profile import ClientProfile
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec.aggregators import clusters
    from fedjax_rec.core import contracts, rows, stacks, trees

CLUSTER = "cluster"
"""Personal group `[S]`: 1 for the client's cluster."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class IFCA:
    """Trains `clusters` models, of which each client takes the one with least loss.

    Each round a client computes the loss of every model on its pairs, trains the best
    one, and sends its delta with the number of the model; the server averages within
    clusters (option II of the paper, model averaging). Models start from draws of their
    own. A client is evaluated by the model it took last, a client that never trained by
    the first one.

    A client receives all models and computes the loss of each. A shared table is copied
    for each client of a chunk, so catalogs have to be small.

    Attributes:
        clusters: number of models.

    References:
        Ghosh et al., An Efficient Framework for Clustered Federated Learning, NeurIPS
        2020, algorithm 1.
    """

    clusters: int = 2

    def __post_init__(self) -> None:
        if self.clusters < 1:
            raise ValueError(f"clusters={self.clusters}, expected at least 1")

    def build(self, context: Context) -> contracts.Recipe:
        """Wraps `context.recipe`, which needs `local.draw`."""
        recipe = context.recipe
        made = stacks.stacked(
            recipe,
            self.clusters,
            lambda params: jnp.argmax(params.personal[CLUSTER]),
            personal={CLUSTER: jnp.zeros(self.clusters).at[0].set(1)},
            chosen_before=False,
            received=self.clusters,
        )
        return made._replace(
            client_update=best_of(recipe, self.clusters),
            aggregator=clusters.by_cluster(recipe.aggregator, self.clusters),
        )


def best_of(recipe: contracts.Recipe, num_clusters: int) -> contracts.ClientUpdate:
    """Local training of the model with the least loss, for parameters of a stack.

    Raises:
        ValueError: the recipe's local training draws no pairs.
    """
    draw, model = recipe.local.draw, recipe.model
    if draw is None:
        raise ValueError("IFCA compares losses on drawn pairs: local.draw is None")

    def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
        personal = dict(params.personal)
        previous = personal.pop(CLUSTER)
        # The pairs that local training draws, too.
        pairs = draw(examples, jax.random.split(key, 3)[0])

        def loss_of(index):
            shared = stacks.select(params.shared, index)
            tables = rows.tables_of([shared, personal])
            spaces = {t.space: pairs[t.space] for t in tables}
            shared, own = rows.gather([shared, personal], spaces)
            view = contracts.Params(shared=shared, personal=own)
            batch = {**pairs, **dict.fromkeys(spaces)}
            return model.loss(view, frozen, batch, key, hparams)[0]

        losses = jax.lax.map(loss_of, jnp.arange(num_clusters))
        # `argmin` would prefer NaN, the loss of a model that has diverged.
        index = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))
        chosen = contracts.Params(
            shared=stacks.select(params.shared, index), personal=personal
        )
        result = recipe.client_update(chosen, frozen, examples, hparams, key)
        member = (jnp.arange(num_clusters) == index).astype(previous.dtype)
        member = trees.where(result.weight > 0, member, previous)
        return result.extended(
            personal={CLUSTER: member}, extras={clusters.MEMBER: member}
        )

    return update


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
        return result.extended(
            personal={CLUSTER: member}, extras={clusters.MEMBER: member}
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
    centers = clusters.spherical_k_means(points, num_clusters, jax.random.key(seed))
    return clusters.nearest_center(points, centers)
