"""A backbone of the user's own: a subclass of `BackboneConfig` with a `load`."""

import dataclasses
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.experiment.corpus import Corpus

WORDS = 50


def tokens_of(text):
    return np.array([zlib.crc32(w.encode()) % WORDS for w in text.split()], np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BagOfWords(fr.BackboneConfig):
    """The mean of a text's words after residual linear maps.

    Attributes:
        width: width of the vectors.
        seed: seed of the weights.
    """

    width: int = 8
    seed: int = 0

    def load(self, progress=False):
        """The functions and their weights."""
        rng = np.random.default_rng(self.seed)
        weights = {
            "words": rng.normal(size=(WORDS, self.width)).astype(np.float32),
            "layers": rng.normal(size=(2, self.width, self.width)).astype(np.float32),
        }

        def run(stack, hidden, layout, adapter=None, params=None):
            def layer(hidden, inputs):
                kernel, own = inputs
                y = hidden @ kernel
                y = y if adapter is None else adapter.linear(own, "map", hidden, y)
                return hidden + y, None

            return jax.lax.scan(layer, hidden, (stack, params))[0]

        def pool(weights, hidden, layout, num_texts):
            texts = jnp.arange(1, num_texts + 1)
            own = (layout.segment[..., None, :] == texts[:, None]).astype(hidden.dtype)
            total = jnp.einsum("...gw,...wd->...gd", own, hidden)
            return total / jnp.maximum(own.sum(-1, keepdims=True), 1)

        backbone = Backbone(
            name="bag of words",
            width=self.width,
            kv_width=self.width,
            num_layers=2,
            max_tokens=self.max_tokens,
            sites={"map": (self.width, self.width)},
            blocks=(),
            fingerprint=f"bag of words {self.seed}",
            tokenize=lambda texts: [tokens_of(t)[: self.max_tokens] for t in texts],
            embed=lambda weights, tokens, layout: weights["words"][tokens],
            run=run,
            pool=pool,
        )
        return backbone, weights


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path))


def test_texts_are_embedded_as_numpy_does():
    titles = ["a green door", "the green house", "one long road to nowhere"]
    data = make_interactions(
        user=np.array([0, 1, 0]),
        item=np.array([0, 1, 2]),
        users=Entities(ids=["a", "b"]),
        items=Entities(ids=list("uvw"), titles=titles),
    )
    config = BagOfWords(template="{title}", seed=3)
    weights = config.load()[1]
    expected = []
    for title in titles:
        hidden = weights["words"][tokens_of(title)]
        for kernel in weights["layers"]:
            hidden = hidden + hidden @ kernel
        expected.append(hidden.mean(0))
    corpus = Corpus(config, data)
    np.testing.assert_allclose(corpus.embeddings(), expected, rtol=2e-5, atol=1e-5)
    assert corpus.facts["name"] == "bag of words"
    # Caches go by the code and the weights, too, and not only by its own fingerprint.
    other = Corpus(dataclasses.replace(config, seed=4), data)
    prints = {c.facts["fingerprint"] for c in (corpus, other, Corpus(config, data))}
    assert len(prints) == 2
    assert len(next(iter(prints)).split()) == 6


def test_lora_trains_inside_it():
    training = fr.Joint(optimizer=fr.SGD(lr=0.5))
    simulation = fr.build(
        fr.Experiment(
            name="own",
            data=fr.SyntheticData(num_users=12, num_items=20, num_interactions=120),
            algorithm=fr.FedFM(
                dim=4,
                adapter=fr.LoRA(layers=1, rank=2, targets=("map",)),
                training=training,
            ),
            backbone=BagOfWords(),
            execution=fr.Execution(max_buckets=1),
            rounds=2,
            eval_every=2,
        )
    )
    before = jax.device_get(simulation.state.shared)
    simulation.advance(2)
    after = jax.device_get(simulation.state.shared)
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before, after)
    assert max(jax.tree.leaves(moved["lora_b"])) > 0


def test_a_backbone_without_load_is_refused():
    with pytest.raises(TypeError, match=r"has no method load; expected load"):
        fr.Experiment(name="x", backbone=fr.Execution())
