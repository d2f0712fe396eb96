"""MiniLM against what sentence-transformers computes with PyTorch.

The golden file is made by `make_golden.py`, which says how.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from fedjax_rec.backbones.checkpoint import load

GOLDEN = Path(__file__).with_name("golden_minilm.npz")
CUTS = (16, 64, 256)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def loaded(minilm):
    return load(minilm)


def by_length(backbone, weights, tokens, place):
    """Vectors of token lists, padded to a few widths only."""
    out = np.zeros((len(tokens), backbone.width), np.float32)

    @jax.jit
    def encode(weights, ids, layout):
        hidden = backbone.embed(weights, ids, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, None, None)
        return backbone.pool(weights, hidden, layout, 1)[:, 0]

    least = 0
    for width in CUTS:
        here = [i for i, row in enumerate(tokens) if least < len(row) <= width]
        ids, layout = place(tokens, [[i] for i in here], width)
        out[here] = encode(weights, ids, layout)
        least = width
    return out


def test_tokens_are_those_of_sentence_transformers(loaded, golden):
    backbone, _ = loaded
    texts = json.loads(str(golden["texts"]))
    expected = np.split(golden["tokens"], np.cumsum(golden["lengths"])[:-1])
    found = backbone.tokenize(texts)
    assert len(texts) == 50
    for text, mine, theirs in zip(texts, found, expected, strict=True):
        assert mine.dtype == np.int32
        np.testing.assert_array_equal(mine, theirs, err_msg=repr(text))


def test_embeddings_are_those_of_sentence_transformers(loaded, golden, place):
    backbone, weights = loaded
    tokens = backbone.tokenize(json.loads(str(golden["texts"])))
    found = by_length(backbone, weights, tokens, place)
    np.testing.assert_allclose(found, golden["embeddings"], rtol=0, atol=1e-6)


def test_bfloat16_stays_close(minilm, golden, place):
    backbone, weights = load(minilm, dtype="bfloat16")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(weights)} == {"bfloat16"}
    texts = json.loads(str(golden["texts"]))
    few = [i for i, text in enumerate(texts) if len(text) < 40]
    tokens = backbone.tokenize([texts[i] for i in few])
    found = by_length(backbone, weights, tokens, place)
    cosine = (found * golden["embeddings"][few]).sum(-1)
    assert cosine.min() > 0.998


def test_what_the_folder_says_is_understood(loaded):
    backbone, weights = loaded
    assert backbone.name == "minilm"
    assert (backbone.width, backbone.num_layers, backbone.max_tokens) == (384, 6, 256)
    assert backbone.sites["ffn/up"] == (384, 1536)
    used = sum(leaf.size for leaf in jax.tree.leaves(weights))
    # All of the published model but the 148 k parameters of BERT's own pooler.
    assert used == 22_713_216 - 384 * 385


@pytest.mark.slow
def test_transformers_itself_agrees(minilm, loaded, place):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    backbone, weights = loaded
    model = transformers.AutoModel.from_pretrained(minilm).eval()
    tokens = backbone.tokenize(["Alien (1979)", "a much longer text " * 10, "x"])
    for row in tokens:
        ids, layout = place([row], [[0]], len(row))
        hidden = backbone.embed(weights, ids, layout)
        found = backbone.run(weights["layers"], hidden, layout, None, None)
        with torch.no_grad():
            expected = model(torch.tensor(row[None].astype(np.int64)))
        expected = expected.last_hidden_state.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
