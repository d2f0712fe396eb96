"""A small net on the final embedding, which can then be cached once for all clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from etils import epy

from fedjax_rec.models.adapters import sites

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp


class EmbeddingNet(NamedTuple):
    """A trained net on the output of a backbone that is not run again.

    Attributes:
        init: `(key, width, dtype) -> {"embedding_adapter": ...}`.
        apply: `(params, e [..., D]) -> [..., D]`.
    """

    init: Callable[[jax.Array, int, Any], dict[str, Any]]
    apply: Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingAdapter:
    """`e + (e A) B`, or `e + GELU(e A + a) B + b` with a hidden layer.

    `B` and `b` are zero at first: embeddings start unchanged, and `B` has a gradient at
    once. Text encoders give vectors of norm 1, so the entries of `A` are far larger
    than by a fan-in rule: their standard deviation is `rank ** -0.5` in the linear
    form, which keeps the norm, and 1 in the other form, so that the GELU's inputs are
    about 1 and its curvature matters. As in `LoRA`, parameters are cast to the type of
    the inputs.

    Attributes:
        rank: rank of the linear form; `D` or more makes it a full map.
        hidden: width of the hidden layer; 0 is the linear form.

    Raises:
        ValueError: `rank` is below 1, or `hidden` below 0.

    References:
        Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters,
        IJCV 2024.

    >>> init, apply = EmbeddingAdapter(hidden=4).build()
    >>> params = init(jax.random.key(0), 3, jnp.float32)
    >>> print(apply(params, jnp.ones(3)))
    [1. 1. 1.]
    """

    rank: int = 8
    hidden: int = 0

    kind: ClassVar[str] = "embedding"
    in_layers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        sites.check_at_least(self, rank=1, hidden=0)

    def build(self) -> EmbeddingNet:
        """Builds the net, over the parameters `{"embedding_adapter": {"down": {"w": [D,
        h]}, "up": {"w": [h, D]}}}`, with biases `b` if there is a hidden layer.
        """
        hidden, rank = self.hidden, self.rank

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
            p = params["embedding_adapter"]
            p = jax.tree.map(lambda leaf: leaf.astype(e.dtype), p)
            down, up = p["down"], p["up"]
            if not hidden:
                return e + (e @ down["w"]) @ up["w"]
            return e + jax.nn.gelu(e @ down["w"] + down["b"]) @ up["w"] + up["b"]

        return EmbeddingNet(init, apply)
