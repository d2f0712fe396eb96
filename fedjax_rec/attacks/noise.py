"""Sending noise instead of what was learned."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from fedjax_rec.attacks.members import Attack, sent_by
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.rows import is_rows


def noise(
    members: Array,
    *,
    scale: float = 1.0,
    lengths: Mapping[str, int] | None = None,
) -> Attack:
    """Members send Gaussian noise, on the rows that they touched.

    It is independent in every number, with `scale` times the root mean square of the
    leaf's delta as its standard deviation.

    Args:
        members: `[N]` bool, who attacks.
        scale: of the noise, relative to the delta it replaces.
        lengths: number of rows of the tables by `Table.space`, to tell rows from
            padding.

    Returns:
        A `Recipe.attack`.

    Raises:
        ValueError: while the round is traced, if `lengths` lacks a table's space.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """

    known = dict(lengths or {})

    def falsify(result, key):
        leaves, structure = jax.tree.flatten(result.delta, is_leaf=is_rows)
        keys = jax.random.split(key, len(leaves))
        return structure.unflatten(
            replaced(leaf, k) for leaf, k in zip(leaves, keys, strict=True)
        )

    def replaced(leaf, key):
        if not is_rows(leaf):
            return drawn(leaf, jnp.ones(leaf.shape, bool), key)
        length = known.get(leaf.space, leaf.num_rows)
        if length is None:
            raise ValueError(
                f"noise needs the length of the tables of {leaf.space!r} in lengths, "
                f"got {known}"
            )
        real = leaf.ids < length
        real = real.reshape(-1, *[1] * (leaf.values.ndim - 1))
        real = jnp.broadcast_to(real, leaf.values.shape)
        return dataclasses.replace(leaf, values=drawn(leaf.values, real, key))

    def drawn(x, real, key):
        square = jnp.where(real, jnp.square(x), 0).sum()
        size = jnp.sqrt(square / jnp.maximum(real.sum(), 1).astype(x.dtype))
        return scale * size * jax.random.normal(key, x.shape, x.dtype)

    return sent_by(members, falsify)
