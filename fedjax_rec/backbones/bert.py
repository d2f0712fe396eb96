"""Layers of a BERT encoder, with the hooks of an adapter in each.

Attention is among the tokens of one segment, so several texts can share a packed row.
The input of a linear map is never reshaped: under `vmap` over clients `x @ kernel`
stays one product of `[V*R*W, in]` with the shared `[in, out]`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_rec.backbones.nonlinear import ACTIVATIONS, normalize, softmax
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Adapter

BLOCKS = ("attention", "ffn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Shapes and activation of a BERT encoder.

    Attributes:
        vocab_size: number of tokens.
        width: `D`.
        num_layers: number of layers.
        num_heads: attention heads; divides `width`.
        ffn_width: `F`, width inside the feed-forward block.
        max_positions: longest text.
        num_types: rows of the token type table; only the first is used.
        activation: a name of `ACTIVATIONS`.
        norm_eps: added to the variance by layer norms.
    """

    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    ffn_width: int
    max_positions: int
    num_types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12

    @property
    def sites(self) -> dict[str, tuple[int, int]]:
        """Maps the path of each linear map in a layer to `(in, out)`."""
        d, f = self.width, self.ffn_width
        names = ("query", "key", "value", "output")
        attention = {f"attention/{name}": (d, d) for name in names}
        return {**attention, "ffn/up": (d, f), "ffn/down": (f, d)}


class Linear(nn.Module):
    """`y = x W + b`, then the adapter's hook `linear`."""

    features: int
    site: str
    adapter: Adapter | None = None

    @nn.compact
    def __call__(self, x: Array, adapter_params: Tree) -> Array:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x @ kernel + bias
        if self.adapter is None:
            return y
        return self.adapter.linear(adapter_params, self.site, x, y).astype(y.dtype)


class LayerNorm(nn.Module):
    """Layer normalization; statistics are float32 at least, whatever the input."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        normalized: Any = normalize(x, self.eps)
        return (normalized * scale + bias).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention within segments, before the residual connection."""

    config: BertConfig
    adapter: Adapter | None

    @nn.compact
    def __call__(self, x: Array, visible: Array, adapter_params: Tree) -> Array:
        linear = self._linear
        query = self._heads(linear("query")(x, adapter_params))
        key = self._heads(linear("key")(x, adapter_params))
        value = self._heads(linear("value")(x, adapter_params))
        pairs = self.adapter.prefix(adapter_params) if self.adapter else None
        if pairs is not None:
            pairs = tuple(self._heads(p.astype(x.dtype)) for p in pairs)
        mixed = attend(query, key, value, visible, pairs)
        return linear("output")(mixed.reshape(x.shape), adapter_params)

    def _linear(self, name: str) -> Linear:
        path = f"attention/{name}"
        return Linear(self.config.width, path, self.adapter, name=name)

    def _heads(self, x: Array) -> Array:
        heads = self.config.num_heads
        return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def attend(
    query: Array,
    key: Array,
    value: Array,
    visible: Array,
    pairs: tuple[Array, ...] | None,
) -> Array:
    """Scaled dot-product attention; the softmax is computed in float32 at least.

    Args:
        query: `[R, W, H, D/H]`.
        key: `[R, W, H, D/H]`.
        value: `[R, W, H, D/H]`.
        visible: `[R, 1, W, W]` bool, whether a token attends to another.
        pairs: keys and values `[P, H, D/H]` that every token attends to, or `None`.

    Returns:
        `[R, W, H, D/H]`.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query = query * (query.shape[-1] ** -0.5)
    scores = jnp.einsum("rqhd,rkhd->rhqk", query, key, preferred_element_type=wide)
    scores = jnp.where(visible, scores, jnp.finfo(wide).min)
    if pairs is None:
        shares = softmax(scores).astype(value.dtype)
        return jnp.einsum("rhqk,rkhd->rqhd", shares, value)
    more = jnp.einsum("rqhd,phd->rhqp", query, pairs[0], preferred_element_type=wide)
    both = jnp.concatenate([more, scores], axis=-1)
    shares = softmax(both).astype(value.dtype)
    before, within = jnp.split(shares, [more.shape[-1]], axis=-1)
    return jnp.einsum("rhqk,rkhd->rqhd", within, value) + jnp.einsum(
        "rhqp,phd->rqhd", before, pairs[1]
    )


class FeedForward(nn.Module):
    """Two linear maps with the activation between, before the residual connection."""

    config: BertConfig
    adapter: Adapter | None

    @nn.compact
    def __call__(self, x: Array, adapter_params: Tree) -> Array:
        c = self.config
        up = Linear(c.ffn_width, "ffn/up", self.adapter, name="up")
        down = Linear(c.width, "ffn/down", self.adapter, name="down")
        return down(ACTIVATIONS[c.activation](up(x, adapter_params)), adapter_params)


class Layer(nn.Module):
    """One layer of BERT; normalizes after each residual connection."""

    config: BertConfig
    adapter: Adapter | None

    @nn.compact
    def __call__(
        self, hidden: Array, visible: Array, adapter_params: Tree
    ) -> tuple[Array, None]:
        c, adapter = self.config, self.adapter

        def add(path: str, x: Array, y: Array) -> Array:
            if adapter is not None:
                y = adapter.block(adapter_params, path, y).astype(x.dtype)
            return LayerNorm(c.norm_eps, name=f"{path}_norm")(x + y)

        attention = Attention(c, adapter, name="attention")
        hidden = add("attention", hidden, attention(hidden, visible, adapter_params))
        ffn = FeedForward(c, adapter, name="ffn")
        return add("ffn", hidden, ffn(hidden, adapter_params)), None


class Embeddings(nn.Module):
    """Sum of token, position and first token type embeddings, normalized."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens: Array, position: Array) -> Array:
        c, normal = self.config, nn.initializers.normal(0.02)
        token = self.param("token", normal, (c.vocab_size, c.width))
        positions = self.param("position", normal, (c.max_positions, c.width))
        types = self.param("type", normal, (c.num_types, c.width))
        hidden = token[tokens] + types[0] + positions[position]
        return LayerNorm(c.norm_eps, name="norm")(hidden)


def shapes(config: BertConfig) -> Tree:
    """Shapes of the weights, as a tree of `embeddings` and `layers`."""
    row = jnp.zeros((1, 2), jnp.int32)
    hidden, visible = jnp.zeros((1, 2, config.width)), jnp.ones((1, 1, 2, 2), bool)

    def init(key):
        embeddings = Embeddings(config).init(key, row, row)["params"]
        layer = Layer(config, None).init(key, hidden, visible, None)["params"]
        return embeddings, layer

    embeddings, layer = jax.eval_shape(init, jax.random.key(0))
    depth = config.num_layers
    return {
        "embeddings": jax.tree.map(lambda leaf: leaf.shape, embeddings),
        "layers": jax.tree.map(lambda leaf: (depth, *leaf.shape), layer),
    }
