"""FedEx-LoRA: means of the factors, and the rest goes to a dense correction."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from etils import epy

from fedjax_rec.wrappers.lora.settings import LoRARule

with epy.lazy_imports():
    from fedjax_rec.core import backbone
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Tree
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedEx(LoRARule):
    """`A = mean(A_i)`, `B = mean(B_i)`, `C += mean(A_i B_i) - A B`.

    `C + A B` is then the old `C` plus the mean product. The paper sends the residual to
    clients as factors of rank `r (C + 1)`, or cut to a smaller one; here a client
    receives `C` whole, and need not have taken part in every round.

    References:
        Singhal et al., FedEx-LoRA: Exact Aggregation for Federated and Efficient
        Fine-Tuning of Foundation Models, ACL 2025.
    """

    lora_base: ClassVar[bool] = True

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        return rule.lora_rule(self, inner, corrected)


def corrected(mean, shared: Tree, state: Tree) -> tuple[dict[str, Tree], Tree]:
    """LoRA's groups after a round, and the unchanged state."""
    base = {
        path: shared[backbone.LORA_BASE][path] + product - mean.a[path] @ mean.b[path]
        for path, product in mean.product.items()
    }
    groups = {
        backbone.LORA_A: mean.a,
        backbone.LORA_B: mean.b,
        backbone.LORA_BASE: base,
    }
    return groups, state
