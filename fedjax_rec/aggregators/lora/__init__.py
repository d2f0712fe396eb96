"""Rules that know that LoRA's factors are two halves of one matrix.

Without one, any rule averages the factors (FedIT), or one of them: with
`fixed=("lora_a",)` nobody trains `A` (FFA-LoRA), and with `personal=("lora_b",)` only
`A` is shared (FedSA-LoRA); both leave no gap, since one factor is the same for all.
"""

from collections.abc import Callable

from fedjax_rec.aggregators.lora.exact import corrected, stacked
from fedjax_rec.aggregators.lora.mixed import averaged, padded, truncated
from fedjax_rec.core.contracts import Aggregator

LORA_AGGREGATORS: dict[str, Callable[..., Aggregator]] = {
    "fedit": averaged,
    "fedex": corrected,
    "flora": stacked,
    "hetlora": padded,
    "flexlora": truncated,
}
"""Each takes the rule for all other groups, `uniform`, and `mixed` ranks."""

WITH_BASE = ("fedex", "flora")
"""Those that write to the dense correction of `models.adapters.lora`."""

__all__ = [
    "LORA_AGGREGATORS",
    "WITH_BASE",
    "averaged",
    "corrected",
    "padded",
    "stacked",
    "truncated",
]
