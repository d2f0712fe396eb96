"""Client profiles: vectors that clients reveal about themselves for guided rules."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from etils import epy

from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClientProfile:
    """The vector that each client sends in addition to its delta.

    Attributes:
        source: `text` is the mean of the frozen backbone's embeddings of the texts of
            the client's training items, minus the catalog's mean. The others are null
            controls: `shuffled` gives every client the profile of another one, `random`
            a random direction of the same length.
        clip: largest length; longer profiles are scaled down.
        seed: seed of the controls.
    """

    source: Literal["text", "shuffled", "random"] = "text"
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.source not in ("text", "shuffled", "random"):
            raise ValueError(
                f"profile.source={self.source!r}, expected text, shuffled or random"
            )
        if not (self.clip > 0 and math.isfinite(self.clip)):
            raise ValueError(f"profile.clip must be positive, got {self.clip}")

    def vectors(self, context: Context) -> np.ndarray:
        """The profiles `[N, D]`, float32.

        Raises:
            ValueError: the data have no texts.
            fedjax_rec.storage.errors.FileError: the backbone cannot be loaded.
        """
        if context.corpus is None:
            raise ValueError("client profiles are computed from the items' texts")
        embedding = context.corpus.embeddings()
        means = mean_by_client(embedding - embedding.mean(0), context.clients)
        norm = np.linalg.norm(means, axis=1, keepdims=True)
        rng = np.random.default_rng(self.seed)
        if self.source == "random":
            means = rng.normal(size=means.shape)
            means *= norm / np.linalg.norm(means, axis=1, keepdims=True)
        scale = np.minimum(1, self.clip / np.maximum(norm, 1e-12))
        profiles = (means * scale).astype(np.float32)
        if self.source == "shuffled":
            return profiles[_without_fixed_point(rng, len(profiles))]
        return profiles


def mean_by_client(values: np.ndarray, clients: Any) -> np.ndarray:
    """Each client's mean `[N, D]` of `values` `[I, D]` over its items; 0 for none."""
    lists = clients.interactions
    size, item = np.asarray(lists.size), np.asarray(lists.columns["item"])
    sums = np.zeros((len(size), values.shape[1]))
    present = np.flatnonzero(size)
    total = int(size.sum())
    # Lists are stored one after the other, so each starts at the end of the last one.
    sums[present] = np.add.reduceat(
        values[item[:total]], np.asarray(lists.offset)[present]
    )
    return sums / np.maximum(size, 1)[:, None]


def _without_fixed_point(rng: np.random.Generator, count: int) -> np.ndarray:
    """A random cyclic permutation."""
    order = rng.permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved
