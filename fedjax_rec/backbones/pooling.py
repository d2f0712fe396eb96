"""Pooling: from the hidden states of a text's tokens to one vector."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Layout

MODES = ("mean", "cls", "max", "mean_sqrt_len")
DENSE_ACTIVATIONS = {"Identity": lambda x: x, "Tanh": jnp.tanh}


@dataclasses.dataclass(frozen=True)
class Head:
    """Operations after the last layer.

    Attributes:
        pooling: a name of `MODES`.
        steps: operations on the pooled vector, in order: `normalize`, or a dense layer
            named by its activation; the n-th dense layer has the weights
            `weights["head"]["dense"][n]`.
    """

    pooling: str = "mean"
    steps: tuple[str, ...] = ()


@partial(jax.jit, static_argnames=("head", "num_texts"), inline=True)
def pool(
    head: Head, weights: Tree, hidden: Array, layout: Layout, num_texts: int
) -> Array:
    """Computes the vectors of the segments `1..num_texts` of each row.

    Args:
        head: pooling and what follows it.
        weights: weights, read at `head`.
        hidden: `[R, W, D]`.
        layout: where texts lie in the rows.
        num_texts: `G`.

    Returns:
        `[R, G, D]` in float32 at least; zeros for a segment that a row does not have.
    """
    hidden = hidden.astype(jnp.promote_types(hidden.dtype, jnp.float32))
    numbers = jnp.arange(1, num_texts + 1, dtype=layout.segment.dtype)
    member = layout.segment[..., None, :] == numbers[:, None]
    present = member.any(-1, keepdims=True)
    dense = iter(weights["head"].get("dense", ()))
    vectors = _pooled(head.pooling, hidden, member, layout.position)
    for step in head.steps:
        if step == "normalize":
            # Bounded inside the root, so that an absent text's gradient is 0, not NaN.
            square = jnp.square(vectors).sum(-1, keepdims=True)
            vectors = vectors * jax.lax.rsqrt(jnp.maximum(square, 1e-24))
        else:
            layer = next(dense)
            activation = DENSE_ACTIVATIONS[step]
            vectors = activation(vectors @ layer["kernel"] + layer["bias"])
    return jnp.where(present, vectors, 0)


def _pooled(mode: str, hidden: Array, member: Array, position: Array) -> Array:
    """`[R, G, D]` from `hidden` `[R, W, D]` and `member` `[R, G, W]`."""
    if mode == "max":
        # One text at a time: all at once would take [R, G, W, D].
        def largest(inside):
            masked = jnp.where(inside[..., None], hidden, jnp.finfo(hidden.dtype).min)
            return masked.max(-2)

        return jnp.moveaxis(jax.lax.map(largest, jnp.moveaxis(member, -2, 0)), 0, -2)
    if mode == "cls":
        member = member & (position == 0)[..., None, :]
    share = member.astype(hidden.dtype)
    count = jnp.maximum(share.sum(-1, keepdims=True), 1)
    if mode == "mean":
        share = share / count
    elif mode == "mean_sqrt_len":
        share = share / jnp.sqrt(count)
    return jnp.matmul(share, hidden, precision=jax.lax.Precision.HIGHEST)
