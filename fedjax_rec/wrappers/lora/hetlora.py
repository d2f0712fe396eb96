"""HetLoRA: zero-padded factors, weighted by the norm of each client's product."""

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

    norms: ClassVar[bool] = True

    def aggregator(self, inner: Aggregator) -> Aggregator:
        """The rule for LoRA's groups, with `inner` for the others."""
        return rule.lora_rule(self, inner, rule.averages)
