"""The items' texts and the frozen backbone that reads them."""

import functools
import hashlib
import logging
import os
from typing import Any

import numpy as np

from fedjax_rec.backbones.settings import BackboneConfig
from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.core.precision import with_precision
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.texts import default_template, item_texts, load_notes
from fedjax_rec.runs.fingerprint import digest
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.sources import code_of, own_file

_LOG = logging.getLogger(__name__)


class Corpus:
    """A `core.context.Corpus`: everything is loaded and computed on first use.

    Args:
        config: the backbone and the texts.
        data: interactions with these items.
        prefix_cache: run layers before the adapted ones once.
        progress: show bars on stderr.
        precision: precision of products, unless the backbone has its own.
    """

    def __init__(
        self,
        config: BackboneConfig,
        data: Interactions,
        prefix_cache: bool = True,
        progress: bool = False,
        precision: str = "highest",
    ):
        self.config, self.data = config, data
        self.prefix_cache, self.progress = prefix_cache, progress
        self.precision = config.precision or precision

    @functools.cached_property
    def texts(self) -> list[str]:
        """One text per item, by the template."""
        config = self.config
        notes = load_notes(config.notes) if config.notes else None
        template = config.template or default_template(self.data)
        texts = item_texts(self.data.items, template, notes)
        if config.shuffle_texts:
            order = np.random.default_rng(0).permutation(len(texts))
            texts = [texts[i] for i in order]
        return texts

    def check_texts(self) -> None:
        """Raises a ValueError if the texts cannot be made; encodes none of them."""
        assert len(self.texts) == self.data.num_items

    @functools.cached_property
    def tokens(self) -> packing.Lists:
        """The tokens of each text."""
        return packing.make_lists(self.backbone.tokenize(self.texts))

    @property
    def backbone(self) -> Backbone:
        """The backbone's functions."""
        return self._loaded[0]

    @property
    def weights(self) -> Tree:
        """The backbone's array tree."""
        return self._loaded[1]

    @functools.cached_property
    def _loaded(self) -> tuple[Backbone, Tree, str]:
        backbone, weights, *warning = self.config.load(self.progress)
        warning = warning[0] if warning else ""
        if own_file(type(self.config)) is not None:
            # Caches go by the fingerprint, and the code may change without it.
            code = code_of(self.config) or os.urandom(8).hex()
            fingerprint = f"{backbone.fingerprint} {code} {digest(weights)}"
            backbone = backbone._replace(fingerprint=fingerprint)
        return with_precision(backbone, self.precision), weights, warning

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts about backbone and texts, for `result.json`."""
        backbone, _, warning = self._loaded
        return {
            "name": backbone.name,
            "fingerprint": backbone.fingerprint,
            "stands_in": bool(warning),
            "warning": warning,
            "layers": backbone.num_layers,
            "width": backbone.width,
            "dtype": self.config.dtype,
            "precision": self.precision,
            "texts": len(self.texts),
            "tokens": int(np.asarray(self.tokens.length).sum()),
            "shuffled": self.config.shuffle_texts,
        }

    def loaded(self) -> list[str]:
        """Hashes of the backbone and of the texts, as far as they were read."""
        cached, hashes = vars(self), []
        if "_loaded" in cached:
            hashes.append(self.backbone.fingerprint)
        if "texts" in cached:
            text = "\0".join(self.texts).encode()
            hashes.append(hashlib.sha256(text).hexdigest())
        return hashes

    def embeddings(self) -> np.ndarray:
        """Vectors of the texts by the frozen backbone, `[I, D]` float32."""
        return self._embeddings

    @functools.cached_property
    def _embeddings(self) -> np.ndarray:
        from fedjax_rec.backbones.prefix import build_embeddings

        result = build_embeddings(
            self.backbone,
            self.weights,
            self.tokens,
            root=cache_root(self.config.cache),
            progress=self.progress,
        )
        return result.astype(np.float32)

    def hidden(self, layers: int, *, to_last_map: bool = False) -> packing.Lists:
        """Token states after the first `layers` layers.

        Args:
            layers: number of layers to run.
            to_last_map: stop before the last linear map of the last of these layers.
        """
        from fedjax_rec.backbones.prefix import build_prefix

        return build_prefix(
            self.backbone,
            self.weights,
            self.tokens,
            layers,
            to_last_map=to_last_map,
            root=cache_root(self.config.cache),
            progress=self.progress,
        )
