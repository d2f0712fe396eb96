"""The BERT encoder: a scan over stacked layers, with an adapter's hooks in each.

Attention is among the tokens of one segment, so that several texts lie end to end in
one packed row. Nothing reshapes what goes into a linear map: under `vmap` over clients
`x @ kernel` stays one product of `[V*R*W, in]` with the shared `[in, out]`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Adapter, Layout


@jax.custom_jvp
def gelu(x: Array) -> Array:
    """`x Phi(x)`, exactly, computed in float32 at least.

    The derivative is computed on the way and is all that a scan over layers keeps for
    the backward pass: a step of LoRA took 12 % less time so than by `jax.nn.gelu`.
    """
    return _gelu(x)[0]


def _gelu(x: Array) -> tuple[Array, Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    below = 0.5 * (1 + jax.lax.erf(wide * 0.5**0.5))
    density = (2 * jnp.pi) ** -0.5 * jnp.exp(-0.5 * wide * wide)
    return (wide * below).astype(x.dtype), (below + wide * density).astype(x.dtype)


@gelu.defjvp
def _gelu_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    y, slope = _gelu(primals[0])
    return y, slope * tangents[0]


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalise(x: Array, eps: float) -> Array:
    """`x` centred and scaled to variance 1 in its last axis, in float32 at least.

    Its derivative needs the result alone and a number a row; what autodiff would keep,
    or compute in its place, is twice as much. It has reverse mode only.
    """
    return _normalise(x, eps)[0]


def _normalise(x: Array, eps: float) -> tuple[Array, Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt(variance + eps)
    return centred * inverse, inverse


def _normalise_forward(x: Array, eps: float):
    y, inverse = _normalise(x, eps)
    return y, (y, inverse, jnp.zeros((), x.dtype))


def _normalise_backward(eps: float, kept, step: Array):
    del eps
    y, inverse, like = kept
    mean, along = _row_sums(step), _row_sums(y * step)
    back = inverse * (step - (mean + y * along) / y.shape[-1])
    return (back.astype(like.dtype),)


def _row_sums(x: Array) -> Array:
    """`x.sum(-1, keepdims=True)` as a product.

    A compiler that computes a sum inside of what follows takes it again for each of
    the row's numbers, and for each client of a `vmap`: on a CPU ten times slower.
    Products are left whole.
    """
    ones = jnp.ones((x.shape[-1], 1), x.dtype)
    return jnp.matmul(x, ones, precision=jax.lax.Precision.HIGHEST)


normalise.defvjp(_normalise_forward, _normalise_backward)


@jax.custom_vjp
def softmax(x: Array) -> Array:
    """Over the last axis; the result is all that the backward pass needs."""
    powers = jnp.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _softmax_forward(x: Array) -> tuple[Array, Array]:
    y = softmax(x)
    return y, y


def _softmax_backward(y: Array, step: Array) -> tuple[Array]:
    return (y * (step - _row_sums(y * step)),)


softmax.defvjp(_softmax_forward, _softmax_backward)

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}
BLOCKS = ("attention", "ffn")


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """What decides the shapes and the function of an encoder.

    Attributes:
        vocab_size: number of tokens.
        width: `D`.
        num_layers: of the stack.
        num_heads: of attention; divides `width`.
        ffn_width: inside the feed-forward block.
        max_positions: longest text.
        num_types: rows of the token type table; only the first is used.
        activation: a name of `ACTIVATIONS`.
        norm_eps: added to the variance.
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
        """Path of each linear map in a layer, to `(in, out)`."""
        d, f = self.width, self.ffn_width
        names = ("query", "key", "value", "output")
        attention = {f"attention/{name}": (d, d) for name in names}
        return {**attention, "ffn/up": (d, f), "ffn/down": (f, d)}


class Linear(nn.Module):
    """`y = x W + b`, then the adapter's word on it."""

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
    """Statistics in float32 at least, whatever `x` is kept in."""

    eps: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        found: Any = normalise(x, self.eps)
        return (found * scale + bias).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head attention within segments, before the residual add."""

    config: BertConfig
    adapter: Adapter | None

    @nn.compact
    def __call__(self, x: Array, visible: Array, adapter_params: Tree) -> Array:
        linear = self._linear
        query = self._heads(linear("query")(x, adapter_params))
        key = self._heads(linear("key")(x, adapter_params))
        value = self._heads(linear("value")(x, adapter_params))
        prefix = self.adapter.prefix(adapter_params) if self.adapter else None
        if prefix is None:
            mixed = attend(query, key, value, visible, None)
        else:
            prefix = tuple(self._heads(p.astype(x.dtype)) for p in prefix)
            mixed = attend(query, key, value, visible, prefix)
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
    prefix: tuple[Array, ...] | None,
) -> Array:
    """Softmax attention; the softmax is computed in float32 at least.

    Args:
        query: `[R, W, H, D/H]`.
        key: `[R, W, H, D/H]`.
        value: `[R, W, H, D/H]`.
        visible: `[R, 1, W, W]` bool, whether a token sees another.
        prefix: keys and values `[P, H, D/H]` that every token sees, or `None`.

    Returns:
        `[R, W, H, D/H]`.
    """
    wide = jnp.promote_types(query.dtype, jnp.float32)
    query = query * (query.shape[-1] ** -0.5)
    scores = jnp.einsum("rqhd,rkhd->rhqk", query, key, preferred_element_type=wide)
    scores = jnp.where(visible, scores, jnp.finfo(wide).min)
    if prefix is None:
        shares = softmax(scores).astype(value.dtype)
        return jnp.einsum("rhqk,rkhd->rqhd", shares, value)
    more = jnp.einsum("rqhd,phd->rhqp", query, prefix[0], preferred_element_type=wide)
    both = jnp.concatenate([more, scores], axis=-1)
    shares = softmax(both).astype(value.dtype)
    before, within = jnp.split(shares, [more.shape[-1]], axis=-1)
    return jnp.einsum("rhqk,rkhd->rqhd", within, value) + jnp.einsum(
        "rhqp,phd->rqhd", before, prefix[1]
    )


class FeedForward(nn.Module):
    """Two linear maps with the activation between, before the residual add."""

    config: BertConfig
    adapter: Adapter | None

    @nn.compact
    def __call__(self, x: Array, adapter_params: Tree) -> Array:
        c = self.config
        up = Linear(c.ffn_width, "ffn/up", self.adapter, name="up")
        down = Linear(c.width, "ffn/down", self.adapter, name="down")
        return down(ACTIVATIONS[c.activation](up(x, adapter_params)), adapter_params)


class Layer(nn.Module):
    """One layer; normalised after each residual add, as BERT is."""

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
    """Token, position and the first token type, added and normalised."""

    config: BertConfig

    @nn.compact
    def __call__(self, tokens: Array, position: Array) -> Array:
        c, normal = self.config, nn.initializers.normal(0.02)
        token = self.param("token", normal, (c.vocab_size, c.width))
        place = self.param("position", normal, (c.max_positions, c.width))
        kind = self.param("type", normal, (c.num_types, c.width))
        hidden = token[tokens] + kind[0] + place[position]
        return LayerNorm(c.norm_eps, name="norm")(hidden)


# Under another jit, grad or vmap these leave no trace (`inline`); called on their own,
# they compile once a shape instead of at every call.
@partial(jax.jit, static_argnames=("config",), inline=True)
def embed(config: BertConfig, weights: Tree, tokens: Array, layout: Layout) -> Array:
    """Hidden states before the first layer.

    Args:
        config: of the encoder.
        weights: of which `embeddings` is read.
        tokens: `[R, W]`.
        layout: of the rows.

    Returns:
        `[R, W, D]`.
    """
    variables = {"params": weights["embeddings"]}
    out: Any = Embeddings(config).apply(variables, tokens, layout.position)
    return out


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

    Padding sees padding only (and a prefix): its numbers stay finite, and no text
    depends on them.

    Args:
        config: of the encoder.
        stack: any contiguous slice `[n, ...]` of the weights' `layers`.
        hidden: `[R, W, D]`.
        layout: of the rows.
        adapter: whose hooks are called in each layer.
        adapter_params: leaves `[n, ...]`, one slice a layer.

    Returns:
        `[R, W, D]`.
    """
    length = jax.tree.leaves(stack)[0].shape[0]
    if length == 0:
        return hidden
    visible = _visible(layout)
    if length == 1:
        # What a scan carries is differentiated from end to end. A single layer's input
        # does not train, and nothing goes back beyond the first adapted map.
        one, own = jax.tree.map(lambda x: x[0], (stack, adapter_params))
        layer = Layer(config, adapter)
        return layer.apply({"params": one}, hidden, visible, own)[0]  # pyright: ignore
    layers = nn.scan(
        Layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
        length=length,
    )(config, adapter)
    out: Any = layers.apply({"params": stack}, hidden, visible, adapter_params)
    return out[0]


def _visible(layout: Layout) -> Array:
    """`[R, 1, W, W]` bool, whether a token sees another."""
    segment = layout.segment
    return segment[..., None, :, None] == segment[..., None, None, :]


LAST_MAP = "ffn/down"
"""Path of a layer's last linear map."""


@partial(jax.jit, static_argnames=("config",), inline=True)
def before_last(
    config: BertConfig, stack: Tree, hidden: Array, layout: Layout
) -> Array:
    """One layer, up to and including its last linear map.

    Args:
        config: of the encoder.
        stack: weights of a single layer, `[1, ...]`.
        hidden: `[R, W, D]`.
        layout: of the rows.

    Returns:
        `[R, W, D + F]`: what the layer would normalise last, and the map's input.
    """
    seen: dict[str, Array] = {}

    def linear(params: Tree, path: str, x: Array, y: Array) -> Array:
        del params
        if path == "ffn/up":
            seen["residual"] = x
        elif path == LAST_MAP:
            seen["input"], seen["output"] = x, y
        return y

    watch = Adapter(
        init=lambda *_: {},
        linear=linear,
        block=lambda params, path, y: y,
        prefix=lambda params: None,
    )
    one = jax.tree.map(lambda x: x[0], stack)
    Layer(config, watch).apply({"params": one}, hidden, _visible(layout), {})
    return jnp.concatenate([seen["residual"] + seen["output"], seen["input"]], axis=-1)


@partial(jax.jit, static_argnames=("config", "adapter"), inline=True)
def after_last(
    config: BertConfig,
    stack: Tree,
    states: Array,
    adapter: Adapter,
    adapter_params: Tree,
) -> Array:
    """What is left of a layer behind `before_last`.

    Args:
        config: of the encoder.
        stack: weights of a single layer, `[1, ...]`.
        states: `[R, W, D + F]`.
        adapter: which adds to the last map's output.
        adapter_params: leaves `[1, ...]`.

    Returns:
        `[R, W, D]`, as `run` gives it.
    """
    norm, own = jax.tree.map(lambda x: x[0], (stack["ffn_norm"], adapter_params))
    y, x = jnp.split(states, [config.width], axis=-1)
    # Added to a rounded sum, a small change of the type of `x` would be lost.
    y = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    y = adapter.linear(own, LAST_MAP, x, y)
    out: Any = LayerNorm(config.norm_eps).apply({"params": norm}, y)
    return out.astype(states.dtype)


def shapes(config: BertConfig) -> Tree:
    """The weights' tree, `embeddings` and `layers`, with shapes for arrays."""
    key, row = jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
    hidden = jnp.zeros((1, 2, config.width))

    def init():
        embeddings = Embeddings(config).init(key, row, row)["params"]
        layer = Layer(config, None).init(
            key, hidden, jnp.ones((1, 1, 2, 2), bool), None
        )
        return {"embeddings": embeddings, "layers": layer["params"]}

    found = jax.eval_shape(init)
    depth = config.num_layers
    layers = jax.tree.map(lambda leaf: (depth, *leaf.shape), found["layers"])
    return {
        "embeddings": jax.tree.map(lambda leaf: leaf.shape, found["embeddings"]),
        "layers": layers,
    }
