"""HetLoRA: zero-padded factors, weighted by the norm of each client's product."""

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
class HetLoRA(LoRARule):
    """`A = sum_i s_i A_i / sum_i s_i` with `s_i = n_i ||A_i B_i||_F`, and `B` alike.

    Factors of a smaller rank are padded with zeros. Products that are small because of
    a low rank, or because a client learned little, weigh less. The paper has no `n_i`,
    which is `weights="uniform"`. Its self-pruning of ranks is left out: a client's rank
    is its device's.

    References:
        Cho et al., Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation
        Models, EMNLP 2024.
    """

    def build(self, context: Context) -> Recipe:
        """Wraps `context.recipe`."""
        recipe = context.recipe
        assert recipe is not None

        def new_groups(mean, shared, state):
            del shared
            return {backbone.LORA_A: mean.a, backbone.LORA_B: mean.b}, state

        aggregator = rule.lora_rule(
            recipe.aggregator, new_groups, uniform=self.uniform, norms=True
        )
        made = rule.wrap(
            recipe, aggregator, ranks=self.ranks, shares=self.rank_shares, norms=True
        )
        return self.next(made, context)
