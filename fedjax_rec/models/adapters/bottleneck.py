"""Bottleneck adapters: a small MLP after each sublayer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from etils import epy

from fedjax_rec.models.adapters import sites

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import backbone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bottleneck:
    """`y + GELU(y W_down + b_down) W_up + b_up` on the output of a sublayer.

    `W_up` and `b_up` are zero at first: the adapted model starts equal to the backbone,
    and they have a gradient at once. (Houlsby et al. draw both matrices small, which is
    close but not equal.) As in `LoRA`, parameters are cast to the type of the
    activations.

    Attributes:
        layers: number of last layers with the adapter; 0 is all layers.
        size: width of the bottleneck.
        blocks: shell patterns over the backbone's `blocks`.

    Raises:
        ValueError: `layers` is negative, or `size` below 1.

    References:
        Houlsby et al., Parameter-Efficient Transfer Learning for NLP, ICML 2019.
    """

    layers: int = 1
    size: int = 32
    blocks: tuple[str, ...] = ("*",)

    kind: ClassVar[str] = "bottleneck"
    in_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sites.check_at_least(self, layers=0, size=1)

    def build(self, base: bool = False) -> backbone.Adapter:
        """Builds the adapter; `base` is ignored.

        Returns:
            An adapter of one group: `{"bottleneck": {path: {"down": {"w": [layers, D,
            size], "b": [layers, size]}, "up": {"w": [layers, size, D], "b": [layers,
            D]}}}}`. Its `init` raises a ValueError if a pattern matches no block.
        """
        del base
        size = self.size

        def init(key, backbone, num_layers, dtype):
            paths = sites.matching(self.blocks, backbone.blocks, "blocks")
            width, parts = backbone.width, {}
            keys = jax.random.split(key, len(paths))
            for path, path_key in zip(paths, keys, strict=True):
                shape = (num_layers, width, size)
                w = width**-0.5 * jax.random.normal(path_key, shape, dtype)
                down = {"w": w, "b": jnp.zeros((num_layers, size), dtype)}
                w = jnp.zeros((num_layers, size, width), dtype)
                up = {"w": w, "b": jnp.zeros((num_layers, width), dtype)}
                parts[path] = {"down": down, "up": up}
            return {"bottleneck": parts}

        def block(params, path, y):
            if path not in params["bottleneck"]:
                return y
            part = jax.tree.map(lambda p: p.astype(y.dtype), params["bottleneck"][path])
            inside = jax.nn.gelu(y @ part["down"]["w"] + part["down"]["b"])
            return y + (inside @ part["up"]["w"] + part["up"]["b"])

        return backbone.Adapter(init, sites.same_linear, block, sites.no_prefix)
