"""Checkpoint folders that a test writes itself, and rows to run."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from fedjax_rec.testing.backbones import lay_out

WORDS = ["red", "green", "blue", "shoes", "chair", "table", "garden", "wooden", "men"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CONFIG = {
    "model_type": "bert",
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


def random_tensors(config: dict, seed: int = 0) -> dict[str, np.ndarray]:
    """A BERT's tensors under the names that transformers gives them."""
    random = np.random.default_rng(seed)
    d, f = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], d),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
        "pooler.dense.weight": (d, d),
        "pooler.dense.bias": (d,),
    }
    for i in range(config["num_hidden_layers"]):
        maps = {
            "attention.self.query": (d, d),
            "attention.self.key": (d, d),
            "attention.self.value": (d, d),
            "attention.output.dense": (d, d),
            "intermediate.dense": (f, d),
            "output.dense": (d, f),
        }
        layer = f"encoder.layer.{i}"
        for name, shape in maps.items():
            shapes[f"{layer}.{name}.weight"] = shape
            shapes[f"{layer}.{name}.bias"] = shape[:1]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{layer}.{name}.weight"] = shapes[f"{layer}.{name}.bias"] = (d,)
    return {
        name: ("LayerNorm.weight" in name)
        + 0.3 * random.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def word_tokenizer() -> Tokenizer:
    """Words of `WORDS`, lower-cased, between `[CLS]` and `[SEP]`."""
    vocab = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()  # pyright: ignore
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # Published files have such limits too, chosen by the exporter.
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=5)
    return tokenizer


@pytest.fixture
def write(tmp_path):
    """Writes a checkpoint folder: `write(config={...}, tensors=..., prefix=...)`."""

    def write(
        config=None, tensors=None, prefix="", modules=None, name="model", **files
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        config = {**CONFIG, **(config or {})}
        tensors = random_tensors(config) if tensors is None else tensors
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            {prefix + key: value for key, value in tensors.items()},
            folder / "model.safetensors",
        )
        word_tokenizer().save(str(folder / "tokenizer.json"))
        if modules is not None:
            listed = [{"idx": 0, "path": "", "type": "sentence_transformers.models."}]
            listed[0]["type"] += "Transformer"
            for i, (kind, content) in enumerate(modules, 1):
                place = f"{i}_{kind}"
                (folder / place).mkdir(exist_ok=True)
                (folder / place / "config.json").write_text(json.dumps(content))
                kind = f"sentence_transformers.models.{kind}"
                listed.append({"idx": i, "path": place, "type": kind})
            (folder / "modules.json").write_text(json.dumps(listed))
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture(scope="session")
def tensors_of():
    return random_tensors


@pytest.fixture(scope="session")
def place():
    return lay_out


@pytest.fixture(scope="session")
def vectors():
    """`vectors(backbone, weights, texts)`: `[n, D]`, each text in a row of its own."""

    def vectors(backbone, weights, texts):
        tokens = backbone.tokenize(texts)
        rows = [[i] for i in range(len(tokens))]
        ids, layout = lay_out(tokens, rows, max(map(len, tokens)))
        hidden = backbone.embed(weights, ids, layout)
        hidden = backbone.run(weights["layers"], hidden, layout, None, None)
        return np.asarray(backbone.pool(weights, hidden, layout, 1)[:, 0])

    return vectors
