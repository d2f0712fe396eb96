"""The small data on which laws examine systems."""

import dataclasses
import functools
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np

from fedjax_rec.backbones.settings import BackboneConfig
from fedjax_rec.backbones.tiny import tiny
from fedjax_rec.core.context import Context
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, Interactions, make_interactions
from fedjax_rec.data.partition import PerUser
from fedjax_rec.data.splits import Split
from fedjax_rec.data.synthetic import synthetic
from fedjax_rec.experiment.corpus import Corpus

SIZES = [1, 2, 3, 3, 5, 8, 9, 12, 1]
"""Interactions of each user."""
NUM_USERS, NUM_ITEMS = len(SIZES), 23
WORDS = [f"{a}{b}" for a in ("red", "sea", "sun", "oak") for b in ("ship", "man", "s")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Narrow(BackboneConfig):
    """A backbone of two narrow layers with random weights."""

    def load(self, progress: bool = False) -> Any:
        """The backbone and its weights."""
        return tiny(num_layers=2, width=8, num_heads=2, ffn_width=8, vocab_size=64)


@functools.cache
def interactions() -> Interactions:
    """Nine users of different activity, and 23 items with titles."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(NUM_USERS), SIZES)
    item = np.concatenate([rng.choice(NUM_ITEMS, s, replace=False) for s in SIZES])
    return make_interactions(
        user=user,
        item=item,
        rating=rng.integers(1, 6, len(user)).astype(np.float32),
        users=Entities(ids=[f"u{u}" for u in range(NUM_USERS)]),
        items=Entities(
            ids=[f"i{i}" for i in range(NUM_ITEMS)],
            titles=[" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(NUM_ITEMS)],
        ),
    )


@functools.cache
def population() -> Interactions:
    """Synthetic data with attributes and timestamps, for splits and partitions."""
    return synthetic(1, num_users=160, num_items=80, num_interactions=2400)


@functools.cache
def cache_folder() -> Any:
    """A temporary folder, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="fedjax_rec-laws-")


@functools.cache
def corpus(config: BackboneConfig | None = None) -> Any:
    """The texts of `interactions` behind a backbone, by default a narrow one."""
    if config is None:
        config = Narrow()
    config = dataclasses.replace(config, cache=cache_folder().name)
    return Corpus(config, interactions())


@functools.cache
def context(lora_base: bool = False, backbone: BackboneConfig | None = None) -> Context:
    """Facts about `interactions` with one client per user."""
    train = interactions()
    return Context(
        num_items=NUM_ITEMS,
        num_users=NUM_USERS,
        num_clients=NUM_USERS,
        cohort_size=NUM_USERS,
        dtype=jnp.dtype("float32"),
        examples=np.asarray(SIZES),
        split=Split(train=train, val=train, test=train, name="none", info={}),
        clients=make_client_data(train, PerUser().partition(train), max_buckets=1),
        corpus=corpus(backbone),
        lora_base=lora_base,
    )
