"""What a client tells of itself: its items' texts, embedded on its device, clipped."""

import dataclasses
from typing import Literal

import numpy as np

from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.experiment.backbone import BackboneConfig, text_embeddings


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """A vector that each client sends beside its delta, for FM-guided aggregation.

    Attributes:
        source: `text` is the mean of the frozen backbone's embeddings of the texts of
            the client's training items, less the catalog's mean. The others are null
            controls: `shuffled` gives every client another one's, `random` one of the
            same length in a random direction. `none` sends no profile.
        clip: longest a profile may be; longer ones are scaled down.
        seed: of the controls.
    """

    source: Literal["none", "text", "shuffled", "random"] = "none"
    clip: float = 1.0
    seed: int = 0


def make_profiles(
    config: ProfileConfig,
    backbone: BackboneConfig,
    train: Interactions,
    clients: ClientData,
    progress: bool = False,
) -> np.ndarray | None:
    """`[N, D]` float32, or `None`.

    Args:
        config: which, and how long.
        backbone: what embeds the texts.
        train: whose items these are.
        clients: what they hold, in NumPy.
        progress: bars on stderr.

    Raises:
        ValueError: `clip` is not positive.
        fedjax_rec.storage.errors.FileError: the backbone cannot be had.
    """
    if config.source == "none":
        return None
    if not (config.clip > 0 and np.isfinite(config.clip)):
        raise ValueError(f"profile.clip must be positive, got {config.clip}")
    embedding = text_embeddings(backbone, train, progress)
    means = mean_by_client(embedding - embedding.mean(0), clients)
    norm = np.linalg.norm(means, axis=1, keepdims=True)
    rng = np.random.default_rng(config.seed)
    if config.source == "random":
        means = rng.normal(size=means.shape)
        means *= norm / np.linalg.norm(means, axis=1, keepdims=True)
    scale = np.minimum(1, config.clip / np.maximum(norm, 1e-12))
    profiles = (means * scale).astype(np.float32)
    if config.source == "shuffled":
        return profiles[_nobody_stays(rng, len(profiles))]
    return profiles


def mean_by_client(values: np.ndarray, clients: ClientData) -> np.ndarray:
    """`[N, D]`: each client's mean of `values` `[I, D]` over its items, or 0."""
    lists = clients.interactions
    size, item = np.asarray(lists.size), np.asarray(lists.columns["item"])
    found = np.zeros((len(size), values.shape[1]))
    some = np.flatnonzero(size)
    total = int(size.sum())
    # Lists lie end to end in the order of the clients, so each starts where one ended.
    found[some] = np.add.reduceat(values[item[:total]], np.asarray(lists.offset)[some])
    return found / np.maximum(size, 1)[:, None]


def _nobody_stays(rng: np.random.Generator, count: int) -> np.ndarray:
    """A random cyclic permutation: no client keeps its own."""
    order = rng.permutation(count)
    moved = np.empty(count, np.int64)
    moved[order] = np.roll(order, 1)
    return moved
