"""Distances between whole deltas."""

import jax
import jax.numpy as jnp

from fedjax_rec.types import Array, Tree


def flat(leaf: Array) -> Array:
    """`[C, ...]` as `[C, P]`."""
    return leaf.reshape(leaf.shape[0], -1)


def squared_norms(deltas: Tree) -> Array:
    """`[C]`: the squared norm of each client's delta over all leaves."""
    return sum(
        (jnp.square(flat(x)).sum(1) for x in jax.tree.leaves(deltas)), jnp.zeros(())
    )


def squared_to(deltas: Tree, center: Tree) -> Array:
    """`[C]`: the squared distance of each client's delta to one delta."""
    return squared_norms(jax.tree.map(lambda x, z: x - z, deltas, center))


def pairwise_squared(deltas: Tree) -> Array:
    """`[C, C]`: squared distances between the clients' deltas, zero on the diagonal.

    From the Gram matrix, `|x|^2 + |y|^2 - 2 x y`: one matrix product of `2 C^2 P`
    operations. Rounding leaves an error of about `1e-7 (|x|^2 + |y|^2)` in float32.
    What overflows is infinitely far.
    """
    gram = sum(
        (
            jnp.matmul(flat(x), flat(x).T, precision=jax.lax.Precision.HIGHEST)
            for x in jax.tree.leaves(deltas)
        ),
        jnp.zeros(()),
    )
    norms = jnp.diagonal(gram)
    distances = norms[:, None] + norms[None] - 2 * gram
    distances = jnp.where(jnp.isnan(distances), jnp.inf, jnp.maximum(distances, 0))
    return jnp.where(jnp.eye(len(norms), dtype=bool), 0, distances)
