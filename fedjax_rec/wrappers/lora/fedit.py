"""FedIT: both factors are averaged like all other groups."""

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
class FedIT(LoRARule):
    """Averages the factors by the rule for all groups, with the metric `lora_gap`.

    With different ranks, factors of a smaller rank are padded with zeros.

    References:
        Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning,
        ICASSP 2024.
    """

    def build(self, context: Context) -> Recipe:
        """Wraps `context.recipe`."""
        recipe = context.recipe
        assert recipe is not None

        def new_groups(mean, shared, state):
            del shared
            return {backbone.LORA_A: mean.a, backbone.LORA_B: mean.b}, state

        if self.ranks:
            aggregator = rule.lora_rule(
                recipe.aggregator, new_groups, uniform=self.uniform, mixed=True
            )
        else:
            aggregator = rule.with_gap(recipe.aggregator, uniform=self.uniform)
        made = rule.wrap(
            recipe, aggregator, ranks=self.ranks, shares=self.rank_shares, exact=False
        )
        return self.next(made, context)
