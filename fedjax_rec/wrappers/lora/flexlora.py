"""FlexLoRA: the mean product, cut to the server's rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.wrappers.lora.settings import LoRARule

with epy.lazy_imports():
    import jax.numpy as jnp

    from fedjax_rec.core import backbone
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Tree
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexLoRA(LoRARule):
    """`mean(A_i B_i) = U S V^T`, `A = U_r`, `B = S_r V_r^T`.

    Columns are in the order of their singular values, so the first `k` of them, which a
    client of rank `k` receives, are the best approximation of that rank (Eckart-Young).

    References:
        Bai et al., Federated Fine-tuning of Large Language Models under Heterogeneous
        Tasks and Client Resources (FlexLoRA), NeurIPS 2024.
    """

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        return rule.lora_rule(self, inner, truncated)


def truncated(mean, shared: Tree, state: Tree) -> tuple[dict[str, Tree], Tree]:
    """LoRA's factors after a round, and the unchanged state."""
    del shared
    a, b = {}, {}
    for path, product in mean.product.items():
        u, s, vt = jnp.linalg.svd(product, full_matrices=False)
        sign = jnp.where(u.sum(-2) < 0, -1, 1)  # an SVD leaves it open
        u, vt = u * sign[..., None, :], vt * sign[..., None]
        r = mean.a[path].shape[-1]
        pad = max(0, r - s.shape[-1])  # a rank above that of any matrix
        u = jnp.pad(u[..., :r], ((0, 0), (0, 0), (0, pad)))
        b_path = s[..., :r, None] * vt[..., :r, :]
        a[path], b[path] = u, jnp.pad(b_path, ((0, 0), (0, pad), (0, 0)))
    return {backbone.LORA_A: a, backbone.LORA_B: b}, state
