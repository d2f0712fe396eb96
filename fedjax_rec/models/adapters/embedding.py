"""A small net on the final embedding, which can then be cached once for all clients."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree


class EmbeddingAdapter(NamedTuple):
    """What is trained on top of a backbone that is not run again.

    Attributes:
        init: `(key, width, dtype) -> {"embedding_adapter": ...}`.
        apply: `(params, e [..., D]) -> [..., D]`.
    """

    init: Callable[[Array, int, Any], dict[str, Tree]]
    apply: Callable[[Tree, Array], Array]


def embedding_adapter(*, rank: int = 16, hidden: int = 0) -> EmbeddingAdapter:
    """`e + (e A) B`, or `e + GELU(e A + a) B + b` where `hidden` is given.

    `B` and `b` are zero at first: embeddings start as they are, and the gradient
    reaches `B` at once. Text encoders give vectors of norm 1, so the entries of `A` are
    far larger than a fan-in rule has them: standard deviation `rank ** -0.5`, which
    keeps the norm in the linear form, and 1 in the other, so that the GELU's inputs are
    about 1 and it bends. Dtypes are as in `lora`: cast to the embeddings' where used.

    Args:
        rank: of the linear form; `D` or more makes it a full map.
        hidden: width of the hidden layer of the other form; 0 for the linear one.

    Returns:
        `init` and `apply`, over `{"embedding_adapter": {"down": {"w": [D, h]}, "up":
        {"w": [h, D]}}}`, with biases `b` in the form with a hidden layer.

    Raises:
        ValueError: `rank` is below 1, or `hidden` below 0.

    References:
        Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters,
        IJCV 2024.

    >>> init, apply = embedding_adapter(hidden=4)
    >>> params = init(jax.random.key(0), 3, jnp.float32)
    >>> print(apply(params, jnp.ones(3)))
    [1. 1. 1.]
    """
    if rank < 1 or hidden < 0:
        raise ValueError(
            f"rank={rank}, hidden={hidden}: expected a rank of at least 1, and a "
            "hidden width of 0 (none) or more"
        )

    def init(key, width, dtype):
        inner = hidden or rank
        std = 1.0 if hidden else rank**-0.5
        down = {"w": std * jax.random.normal(key, (width, inner), dtype)}
        up = {"w": jnp.zeros((inner, width), dtype)}
        if hidden:
            down["b"] = jnp.zeros((inner,), dtype)
            up["b"] = jnp.zeros((width,), dtype)
        return {"embedding_adapter": {"down": down, "up": up}}

    def apply(params, e):
        p = jax.tree.map(lambda leaf: leaf.astype(e.dtype), params["embedding_adapter"])
        down, up = p["down"], p["up"]
        if not hidden:
            return e + (e @ down["w"]) @ up["w"]
        return e + jax.nn.gelu(e @ down["w"] + down["b"]) @ up["w"] + up["b"]

    return EmbeddingAdapter(init, apply)
