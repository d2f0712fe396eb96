"""Clusters: a model for each, folded apart, and spherical k-means."""

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
        empty = inner.start(model)  # of the rule's structure, without arrays
        delta = jax.vmap(lambda fold: inner.finish(fold, empty, model)[0])(acc.folds)
        most = acc.members.max() / jnp.maximum(acc.members.sum(), 1)
        return rows_first(delta), state, {"cluster_most": most}

    # The number of the cluster is sent, too.
    numbers, coordinatewise = inner.numbers + 1, inner.coordinatewise
    return Aggregator(
        init, update, finish, numbers=numbers, coordinatewise=coordinatewise
    )


def spherical_k_means(
    points: Array, num_clusters: int, key: Array, *, steps: int = 20, tries: int = 8
) -> Array:
    """Centers `mu_s` that make `sum_i max_s cos(x_i, mu_s)` large, by Lloyd's steps.

    A start is drawn center by center: the point `x` with the largest `d exp(<x, g>)`,
    where `d` is its distance `1 - cos` to the nearest center so far, and `g` a normal
    direction of its own. The best of all starts is taken, with its centers in a random
    order, so that the result does not depend on the order of the points. A point of
    zeros has no direction and is ignored. A center without nearest points stays.

    Args:
        points: `[n, m]`.
        num_clusters: `S`.
        key: key of the starts.
        steps: Lloyd's steps.
        tries: starts.

    Returns:
        `[S, m]` of length 1; all zeros if no point has a direction.

    References:
        Dhillon and Modha, Concept Decompositions for Large Sparse Text Data Using
        Clustering, Machine Learning 2001. The starts without `g` are those of Gonzalez,
        Clustering to Minimize the Maximum Intercluster Distance, 1985.

    >>> ends = spherical_k_means(jnp.eye(3)[:, :2], 2, jax.random.key(0))
    >>> sorted(ends.tolist())
    [[0.0, 1.0], [1.0, 0.0]]
    """
    norm = jnp.linalg.norm(points, axis=1, keepdims=True)
    here = norm[:, 0] > 0
    unit = jnp.where(here[:, None], points / jnp.where(norm > 0, norm, 1), 0)

    def start(key: Array) -> Array:
        def draw(farness: Array, direction: Array):
            score = jnp.maximum(farness, 0) * jnp.exp(unit @ direction)
            at = jnp.argmax(jnp.where(here, score, -1))
            return jnp.minimum(farness, 1 - unit @ unit[at]), unit[at]

        far = jnp.ones(len(unit), unit.dtype)
        shape = (num_clusters, unit.shape[1])
        return jax.lax.scan(draw, far, jax.random.normal(key, shape, unit.dtype))[1]

    def step(_, centers: Array) -> Array:
        nearest = jnp.argmax(unit @ centers.T, 1)
        # A point of zeros adds zeros.
        sums = jnp.zeros_like(centers).at[nearest].add(unit)
        length = jnp.linalg.norm(sums, axis=1, keepdims=True)
        return jnp.where(length > 0, sums / jnp.where(length > 0, length, 1), centers)

    def one(key: Array) -> tuple[Array, Array]:
        centers = jax.lax.fori_loop(0, steps, step, start(key))
        return centers, (unit @ centers.T).max(1).sum()

    tries_key, order_key = jax.random.split(key)
    centers, reached = jax.vmap(one)(jax.random.split(tries_key, tries))
    # Rounding may prefer any of several starts with the same end.
    best = centers[jnp.argmax(reached)]
    order = jnp.argsort(best @ jax.random.normal(order_key, best.shape[1:], best.dtype))
    return jnp.where(here.any(), best[order], 0)


def nearest_center(points: Array, centers: Array) -> Array:
    """`[n]` int32: the center with the largest cosine, of centers of equal length.

    Args:
        points: `[n, m]`; one of zeros is nearest to the first center.
        centers: `[S, m]`.
    """
    return jnp.argmax(points @ centers.T, axis=-1).astype(jnp.int32)
