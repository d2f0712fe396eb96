"""Spherical k-means: groups of directions."""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array


def spherical_k_means(
    points: Array, num_clusters: int, key: Array, *, steps: int = 20, tries: int = 8
) -> Array:
    """Centers `mu_s` that make `sum_i max_s cos(x_i, mu_s)` large, by Lloyd's steps.

    A start is drawn center by center: the point `x` with the largest `d exp(<x, g>)`,
    where `d` is its distance `1 - cos` to the nearest center so far, and `g` a normal
    direction of its own. Of some starts the best end is taken, its centers in an order
    of their own: nothing depends on the order of the points. A point of zeros has no
    direction and counts nothing. A center that nobody is nearest to stays.

    Args:
        points: `[n, m]`.
        num_clusters: `S`.
        key: of the starts.
        steps: Lloyd's steps.
        tries: starts.

    Returns:
        `[S, m]` of length 1; all zeros where no point has a direction.

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
    # Of several starts with the same end any may be the best one, by rounding.
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
