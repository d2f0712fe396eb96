"""FedIT: both factors are averaged like all other groups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from etils import epy

from fedjax_rec.wrappers.lora.settings import LoRARule

with epy.lazy_imports():
    from fedjax_rec.wrappers.lora import rule

if TYPE_CHECKING:
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedIT(LoRARule):
    """Averages the factors by the rule for all groups, with the metric `lora_gap`.

    With different ranks, factors of a smaller rank are padded with zeros.

    References:
        Zhang et al., Towards Building the Federated GPT: Federated Instruction Tuning,
        ICASSP 2024.
    """

    exact: ClassVar[bool] = False

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        if not self.ranks:
            return rule.with_gap(inner, uniform=self.uniform)
        return rule.lora_rule(self, inner, rule.averages)
