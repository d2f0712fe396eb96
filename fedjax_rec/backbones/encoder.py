"""The pure functions of a transformer encoder: layers, and texts as vectors."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_rec.backbones import bert
from fedjax_rec.backbones.bert import BertConfig
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Adapter, Backbone, LastMap, Layout

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


LAST_MAP = "ffn/down"
"""Path of a layer's last linear map."""


def encoder(config: BertConfig, head: Head, **about: Any) -> Backbone:
    """Binds configuration and head; the weights stay an argument of each function.

    Args:
        config: the encoder's configuration.
        head: pooling, and steps after it.
        **about: `name`, `max_tokens`, `fingerprint` and `tokenize` of the backbone.
    """
    return Backbone(
        width=config.width,
        kv_width=config.width,
        num_layers=config.num_layers,
        sites=config.sites,
        blocks=bert.BLOCKS,
        embed=partial(embed, config),
        run=partial(run, config),
        pool=partial(pool, head),
        last=LastMap(
            site=LAST_MAP,
            before=partial(before_last, config),
            after=partial(after_last, config),
        ),
        **about,
    )


# `inline` leaves no trace of these under another jit, grad or vmap. Called directly,
# they compile once a shape instead of running operation by operation.
@partial(jax.jit, static_argnames=("config",), inline=True)
def embed(config: BertConfig, weights: Tree, tokens: Array, layout: Layout) -> Array:
    """Computes the hidden states before the first layer.

    Args:
        config: the encoder's configuration.
        weights: weights, read at `embeddings`.
        tokens: `[R, W]`.
        layout: where texts lie in the rows.

    Returns:
        `[R, W, D]`.
    """
    variables = {"params": weights["embeddings"]}
    hidden: Any = bert.Embeddings(config).apply(variables, tokens, layout.position)
    return hidden


@partial(jax.jit, static_argnames=("config", "adapter"), inline=True)
def run(
    config: BertConfig,
    stack: Tree,
    hidden: Array,
    layout: Layout,
    adapter: Adapter | None = None,
    adapter_params: Tree = None,
) -> Array:
    """Runs the layers of `stack`.

    Padding attends to padding only (and to an adapter's pairs): its states stay finite,
    and no text depends on them.

    Args:
        config: the encoder's configuration.
        stack: any contiguous slice `[n, ...]` of the weights' `layers`.
        hidden: `[R, W, D]`.
        layout: where texts lie in the rows.
        adapter: its hooks are called in each layer.
        adapter_params: leaves `[n, ...]`, one slice a layer.

    Returns:
        `[R, W, D]`.
    """
    length = jax.tree.leaves(stack)[0].shape[0]
    if length == 0:
        return hidden
    visible = _visible(layout)
    if length == 1:
        # A scan differentiates its carry in full. The input of a single layer does not
        # train, and without the scan the backward pass ends at the first adapted map.
        weights, params = _single((stack, adapter_params))
        layer = bert.Layer(config, adapter)
        return layer.apply({"params": weights}, hidden, visible, params)[0]  # pyright: ignore
    layers = nn.scan(
        bert.Layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
        length=length,
    )(config, adapter)
    out: Any = layers.apply({"params": stack}, hidden, visible, adapter_params)
    return out[0]


@partial(jax.jit, static_argnames=("config",), inline=True)
def before_last(
    config: BertConfig, stack: Tree, hidden: Array, layout: Layout
) -> Array:
    """Runs one layer up to and including its last linear map.

    Args:
        config: the encoder's configuration.
        stack: weights of a single layer, `[1, ...]`.
        hidden: `[R, W, D]`.
        layout: where texts lie in the rows.

    Returns:
        `[R, W, D + F]`: the input of the layer's last normalization, then the input of
        its last linear map.
    """
    seen: dict[str, Array] = {}

    def linear(params: Tree, path: str, x: Array, y: Array) -> Array:
        if path == "ffn/up":
            seen["residual"] = x
        elif path == LAST_MAP:
            seen["input"], seen["output"] = x, y
        return y

    recorder = Adapter(
        init=lambda *_: {},
        linear=linear,
        block=lambda params, path, y: y,
        prefix=lambda params: None,
    )
    variables = {"params": _single(stack)}
    bert.Layer(config, recorder).apply(variables, hidden, _visible(layout), {})
    return jnp.concatenate([seen["residual"] + seen["output"], seen["input"]], axis=-1)


@partial(jax.jit, static_argnames=("config", "adapter"), inline=True)
def after_last(
    config: BertConfig,
    stack: Tree,
    states: Array,
    adapter: Adapter,
    adapter_params: Tree,
) -> Array:
    """Completes a layer from the output of `before_last`.

    Args:
        config: the encoder's configuration.
        stack: weights of a single layer, `[1, ...]`.
        states: `[R, W, D + F]`.
        adapter: adds to the output of the last linear map.
        adapter_params: leaves `[1, ...]`.

    Returns:
        `[R, W, D]`, equal to the output of `run`.
    """
    norm, params = _single((stack["ffn_norm"], adapter_params))
    y, x = jnp.split(states, [config.width], axis=-1)
    # In the type of `x`, a small change would be lost in an already rounded sum.
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    y = adapter.linear(params, LAST_MAP, x, y)
    out: Any = bert.LayerNorm(config.norm_eps).apply({"params": norm}, y)
    return out.astype(states.dtype)


def _visible(layout: Layout) -> Array:
    """`[R, 1, W, W]` bool, whether a token attends to another."""
    segment = layout.segment
    return segment[..., None, :, None] == segment[..., None, None, :]


def _single(stack: Tree) -> Tree:
    """The weights of the only layer of a stack."""
    return jax.tree.map(lambda leaf: leaf[0], stack)
