"""FedEx-LoRA: means of the factors, and the rest goes to a dense correction."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.wrappers.lora.settings import LoRARule

with epy.lazy_imports():
    from fedjax_rec.core import backbone
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Recipe


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

    lora_base = True

    def build(self, context: Context) -> Recipe:
        """Wraps `context.recipe`."""
        recipe = context.recipe
        assert recipe is not None

        def new_groups(mean, shared, state):
            base = {
                path: shared[backbone.LORA_BASE][path]
                + product
                - mean.a[path] @ mean.b[path]
                for path, product in mean.product.items()
            }
            groups = {
                backbone.LORA_A: mean.a,
                backbone.LORA_B: mean.b,
                backbone.LORA_BASE: base,
            }
            return groups, state

        aggregator = rule.lora_rule(
            recipe.aggregator,
            new_groups,
            uniform=self.uniform,
            mixed=bool(self.ranks),
            base=True,
        )
        made = rule.wrap(recipe, aggregator, ranks=self.ranks, shares=self.rank_shares)
        return self.next(made, context)
