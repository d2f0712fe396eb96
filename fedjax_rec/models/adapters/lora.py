"""LoRA: a low-rank correction beside frozen linear maps."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_rec.core.backbone import Adapter
from fedjax_rec.models.adapters.hooks import no_prefix, same_block
from fedjax_rec.models.adapters.patterns import matching

ATTENTION = ("attention/query", "attention/value")
"""Where Hu et al. put it."""
LORA_BASE = "lora_base"
"""The group of the dense corrections: nobody trains it, a server may add to it."""


def lora(
    *,
    rank: int = 8,
    alpha: float = 16.0,
    targets: Sequence[str] = ATTENTION,
    base: bool = False,
) -> Adapter:
    """`y + (alpha / r) (x A) B` at chosen linear maps `y = x W + b`.

    `A` is uniform within `in ** -0.5` (as in the authors' code) and `B` zero: the
    adapted model starts equal to the backbone, and the gradient reaches `B` at once.
    `W + A B` is never formed, so `x W` stays one matmul with one `W` for all clients
    of a `vmap`.

    The products are in the dtype of the activations, into which the adapter is cast
    where it is used: with float32 adapters on bfloat16 activations, the optimizer adds
    small steps to full precision and the matmuls run at the speed of the backbone's.

    Args:
        rank: `r`.
        alpha: of the scale `alpha / r`, which keeps the size of a step about the same
            for every rank.
        targets: patterns (as for a shell) over the backbone's `sites`, such as
            `"attention/*"`, `"ffn/up"`, `"*"`.
        base: whether there is also a dense correction `C`, zero at first, for what a
            mean of products `A B` has beyond rank `r`: `y + (alpha / r) (x C + (x A)
            B)`. One copy serves all clients of a `vmap`, as with `W`.

    Returns:
        An adapter of two named groups, so that `A` can be shared and `B` stay personal:
        `{"lora_a": {path: [layers, in, r]}, "lora_b": {path: [layers, r, out]}}`, and
        with `base` a third, `{"lora_base": {path: [layers, in, out]}}`.

    Raises:
        ValueError: `rank` is below 1; in `init`, a target matches no site.

    References:
        Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, ICLR 2022.
        Guo et al., Selective Aggregation for Low-Rank Adaptation in Federated
        Learning, ICLR 2025. Singhal et al., FedEx-LoRA: Exact Aggregation for Federated
        and Efficient Fine-Tuning of Foundation Models, ACL 2025 (`base`).
    """
    if rank < 1:
        raise ValueError(f"rank={rank}, expected at least 1")
    scale = alpha / rank

    def init(key, backbone, num_layers, dtype):
        paths = matching(targets, backbone.sites, "targets")
        keys = jax.random.split(key, len(paths))
        a, b, c = {}, {}, {}
        for path, path_key in zip(paths, keys, strict=True):
            fan_in, fan_out = backbone.sites[path]
            shape, bound = (num_layers, fan_in, rank), fan_in**-0.5
            a[path] = jax.random.uniform(path_key, shape, dtype, -bound, bound)
            b[path] = jnp.zeros((num_layers, rank, fan_out), dtype)
            c[path] = jnp.zeros((num_layers, fan_in, fan_out), dtype)
        return {"lora_a": a, "lora_b": b, **({LORA_BASE: c} if base else {})}

    def linear(params, path, x, y):
        if path not in params["lora_a"]:
            return y
        a = params["lora_a"][path].astype(x.dtype)
        b = params["lora_b"][path].astype(x.dtype)
        change = (x @ a) @ b
        if base:
            change = change + x @ params[LORA_BASE][path].astype(x.dtype)
        return y + (scale * change).astype(y.dtype)

    return Adapter(init, linear, same_block, no_prefix)


import dataclasses as _d  # TEMPORARY


@_d.dataclass(frozen=True, kw_only=True)
class LoRA:
    layers: int = 1
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ATTENTION
    kind = "lora"
    in_layers = True

    def build(self, base: bool = False):
        return lora(rank=self.rank, alpha=self.alpha, targets=self.targets, base=base)
