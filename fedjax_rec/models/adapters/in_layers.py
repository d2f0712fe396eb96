"""Adapters inside a backbone's layers: LoRA, bottleneck adapters and prefix tuning."""

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
class LoRA:
    """`y + (alpha / r) (x A) B` at chosen linear maps `y = x W + b`.

    `A` is uniform within `in ** -0.5` (as in the authors' code) and `B` zero: the
    adapted model starts equal to the backbone, and `B` has a gradient at once.
    `W + A B` is never formed, so that `x W` stays one product with one `W` for all
    clients of a `vmap`.

    The products are in the type of the activations, which the parameters are cast to:
    with float32 parameters on bfloat16 activations, the optimizer adds small steps in
    full precision, and products run at the speed of the backbone's.

    Attributes:
        layers: number of last layers with the adapter; 0 is all layers.
        rank: `r`.
        alpha: numerator of the scale `alpha / r`, which makes the size of a step nearly
            independent of the rank.
        targets: shell patterns over the backbone's `sites`, such as `attention/*`,
            `ffn/up`, `*`. By default those of Hu et al.

    Raises:
        ValueError: `layers` is negative, or `rank` below 1.

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
    """

    layers: int = 1
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention/query", "attention/value")

    kind: ClassVar[str] = "lora"
    in_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sites.check_at_least(self, layers=0, rank=1)

    def build(self, base: bool = False) -> backbone.Adapter:
        """Builds the adapter.

        Args:
            base: whether to add a dense correction `C`, zero at first, for the part of
                a mean of products `A B` beyond rank `r`: `y + (alpha / r) (x C + (x A)
                B)`. As with `W`, all clients of a `vmap` share one copy.

        Returns:
            An adapter of two groups, so that `A` can be shared and `B` stay personal:
            `{"lora_a": {path: [layers, in, r]}, "lora_b": {path: [layers, r, out]}}`,
            and with `base` a third, `{"lora_base": {path: [layers, in, out]}}`. Its
            `init` raises a ValueError if a target matches no site.

        References:
            Guo et al., Selective Aggregation for Low-Rank Adaptation in Federated
            Learning, ICLR 2025. Singhal et al., FedEx-LoRA: Exact Aggregation for
            Federated and Efficient Fine-Tuning of Foundation Models, ACL 2025 (`base`).
        """
        scale, rank = self.alpha / self.rank, self.rank
        of_a, of_b, of_base = backbone.LORA_A, backbone.LORA_B, backbone.LORA_BASE

        def init(key, model, num_layers, dtype):
            paths = sites.matching(self.targets, model.sites, "targets")
            keys = jax.random.split(key, len(paths))
            a, b, c = {}, {}, {}
            for path, path_key in zip(paths, keys, strict=True):
                fan_in, fan_out = model.sites[path]
                shape, bound = (num_layers, fan_in, rank), fan_in**-0.5
                a[path] = jax.random.uniform(path_key, shape, dtype, -bound, bound)
                b[path] = jnp.zeros((num_layers, rank, fan_out), dtype)
                c[path] = jnp.zeros((num_layers, fan_in, fan_out), dtype)
            return {of_a: a, of_b: b, **({of_base: c} if base else {})}

        def linear(params, path, x, y):
            if path not in params[of_a]:
                return y
            a = params[of_a][path].astype(x.dtype)
            b = params[of_b][path].astype(x.dtype)
            change = (x @ a) @ b
            if base:
                change = change + x @ params[of_base][path].astype(x.dtype)
            return y + (scale * change).astype(y.dtype)

        return backbone.Adapter(init, linear, sites.same_block, sites.no_prefix)


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


_KEY_STD = 0.02
"""Standard deviation of the initial keys."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrefixTuning:
    """`P` trained (key, value) pairs in the attention of each layer.

    Keys are normal and small, values zero. Unlike the other adapters this one does
    *not* start equal to the backbone: a softmax over `T + P` scores moves mass to the
    pairs, which have no value yet. The output of attention (before its output map)
    starts as `Z / (Z + Z_P)` times the backbone's; `Z` sums the exponentials of the
    text's scores, `Z_P` those of the pairs, each about 1. Keys and values have a
    gradient at once.

    The pairs are trained directly, without the MLP that Li and Liang generate them by,
    which would add to a client's messages. A backbone casts them to its own type.

    Attributes:
        layers: number of last layers with the adapter; 0 is all layers.
        length: `P`.

    Raises:
        ValueError: `layers` is negative, or `length` below 1.

    References:
        Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL
        2021.
        Liu et al., P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning
        Universally Across Scales and Tasks, ACL 2022.
    """

    layers: int = 1
    length: int = 8

    kind: ClassVar[str] = "prefix_tuning"
    in_layers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        sites.check_at_least(self, layers=0, length=1)

    def build(self, base: bool = False) -> backbone.Adapter:
        """Builds the adapter; `base` is ignored.

        Returns:
            An adapter of one group: `{"prompt": {"keys": [layers, P, kv_width],
            "values": [layers, P, kv_width]}}`.
        """

        def init(key, backbone, num_layers, dtype):
            shape = (num_layers, self.length, backbone.kv_width)
            keys = _KEY_STD * jax.random.normal(key, shape, dtype)
            return {"prompt": {"keys": keys, "values": jnp.zeros(shape, dtype)}}

        def pairs(params):
            return params["prompt"]["keys"], params["prompt"]["values"]

        return backbone.Adapter(init, sites.same_linear, sites.same_block, pairs)
