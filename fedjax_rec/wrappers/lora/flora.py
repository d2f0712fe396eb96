"""FLoRA: stacked factors are folded into a dense correction, and adapters restart."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from etils import epy

from fedjax_rec.wrappers.lora.settings import LoRARule

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.core import backbone
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Tree
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class FLoRA(LoRARule):
    """The dense correction gains the mean product, and clients start from new factors.

    `[A_1 .. A_C] [n_1 B_1; ..; n_C B_C] / sum n_i` is the mean product. The new `A` is
    uniform within `in ** -0.5`, as in `models.adapters.lora`, and `B = 0`. The draws
    follow from the first `A`, hence from the experiment's seed.

    References:
        Wang et al., FLoRA: Federated Fine-Tuning Large Language Models with
        Heterogeneous Low-Rank Adaptations, NeurIPS 2024.
    """

    lora_base: ClassVar[bool] = True

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        return rule.lora_rule(self, inner, restarted, first_restart)


def first_restart(shared: Tree) -> Tree:
    """Seed of the new factors, a function of the first `A`, and a count of restarts."""
    words = [
        jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
        for x in jax.tree.leaves(shared[backbone.LORA_A])
    ]
    seed = sum((w.sum(dtype=jnp.uint32) for w in words), jnp.uint32(0))
    return {"seed": seed, "count": jnp.zeros((), jnp.int32)}


def restarted(mean, shared: Tree, state: Tree) -> tuple[dict[str, Tree], Tree]:
    """LoRA's groups after a round, and the next state."""
    key = jax.random.fold_in(jax.random.key(state["seed"]), state["count"])
    keys = jax.random.split(key, len(mean.a))
    fresh, base = {}, {}
    for path_key, (path, a) in zip(keys, sorted(mean.a.items()), strict=True):
        bound = a.shape[1] ** -0.5
        fresh[path] = jax.random.uniform(path_key, a.shape, a.dtype, -bound, bound)
        base[path] = shared[backbone.LORA_BASE][path] + mean.product[path]
    groups = {
        backbone.LORA_A: fresh,
        backbone.LORA_B: jax.tree.map(jnp.zeros_like, mean.b),
        backbone.LORA_BASE: base,
    }
    return groups, {"seed": state["seed"], "count": state["count"] + 1}
