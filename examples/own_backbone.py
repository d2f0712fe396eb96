"""A foundation model of one's own: a bag of words after residual maps, with LoRA in it.

    fedjax-rec train quickstart --plugin examples/own_backbone.py --algorithm fedfm \\
        --backbone bag_of_words --algorithm.adapter.targets map
"""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np

import fedjax_rec as fr
from fedjax_rec.core.backbone import Backbone

WORDS = 500


@fr.kind("backbone")
@dataclasses.dataclass(frozen=True, kw_only=True)
class BagOfWords(fr.BackboneConfig):
    """The mean of a text's words, each through four residual linear maps.

    Attributes:
        width: width of the vectors.
    """

    width: int = 32

    def load(self, progress=False):
        rng, shape = np.random.default_rng(0), (self.width, self.width)
        maps = np.float32(0.2 * rng.normal(size=(4, *shape)))
        words = np.float32(rng.normal(size=(WORDS, self.width)))

        def tokenize(texts):
            ids = [[zlib.crc32(w.encode()) % WORDS for w in t.split()] for t in texts]
            return [np.array(x[: self.max_tokens] or [0], np.int32) for x in ids]

        def run(stack, hidden, layout, adapter=None, params=None):
            def layer(hidden, inputs):
                kernel, own = inputs
                y = hidden @ kernel
                y = adapter.linear(own, "map", hidden, y) if adapter else y
                return hidden + y, None

            return jax.lax.scan(layer, hidden, (stack, params))[0]

        def pool(weights, hidden, layout, num_texts):
            own = layout.segment[..., None, :] == 1 + jnp.arange(num_texts)[:, None]
            return own @ hidden / jnp.maximum(own.sum(-1, keepdims=True), 1)

        sizes = {"width": self.width, "kv_width": self.width, "num_layers": 4}
        limits = {"max_tokens": self.max_tokens, "blocks": (), "sites": {"map": shape}}
        return Backbone(
            name="bag of words", fingerprint=f"{self}", **sizes, **limits,
            tokenize=tokenize, run=run, pool=pool,
            embed=lambda w, tokens, layout: w["words"][tokens],
        ), {"words": words, "layers": maps}  # fmt: skip
