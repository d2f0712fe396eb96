"""Small trainable parts on a frozen backbone."""

from collections.abc import Callable

from fedjax_rec.core.backbone import Adapter
from fedjax_rec.models.adapters.bottleneck import bottleneck
from fedjax_rec.models.adapters.describe import Size, describe
from fedjax_rec.models.adapters.embedding import (
    EmbeddingAdapter,
    embedding_adapter,
)
from fedjax_rec.models.adapters.lora import LORA_BASE, lora
from fedjax_rec.models.adapters.prompt import prefix

ADAPTERS: dict[str, Callable[..., Adapter]] = {
    "lora": lora,
    "bottleneck": bottleneck,
    "prefix": prefix,
}
"""Those inside a backbone's layers; each takes options by name."""

__all__ = [
    "ADAPTERS",
    "LORA_BASE",
    "EmbeddingAdapter",
    "Size",
    "bottleneck",
    "describe",
    "embedding_adapter",
    "lora",
    "prefix",
]
