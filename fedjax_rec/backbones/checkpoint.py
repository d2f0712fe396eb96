"""Loading a checkpoint folder, without PyTorch."""

import dataclasses
import hashlib
import json
from pathlib import Path

from fedjax_rec.backbones import tokenize
from fedjax_rec.backbones.encoder import check_dtype, encoder
from fedjax_rec.backbones.folder import read_folder
from fedjax_rec.backbones.tensors import read_weights
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    max_tokens: int | None = None,
    name: str | None = None,
) -> tuple[Backbone, Tree]:
    """A BERT-like model from a folder in Hugging Face's layout.

    `modules.json` of sentence-transformers decides pooling and what follows; without
    it, the mean over a text's tokens, not normalised.

    Args:
        path: folder with `config.json`, `model.safetensors` and `tokenizer.json`.
        dtype: of weights and activations, `float32` or `bfloat16`.
        max_tokens: longest text, special tokens included; by default what the folder
            says.
        name: of the backbone; by default the folder's.

    Returns:
        The backbone and its weights: a dict of `embeddings`, `layers` and `head`.

    Raises:
        FileError: a file is missing, damaged, or of a kind that is not supported.
    """
    check_dtype(dtype)
    folder = read_folder(Path(path).expanduser())
    limit = folder.max_tokens if max_tokens is None else max_tokens
    tokenize.check_max_tokens(limit, 1, folder.config.max_positions)
    tokens = folder.model / tokenize.FILE
    split = tokenize.load_tokenizer(
        tokens, limit, folder.config.vocab_size, folder.lower
    )
    weights, content = read_weights(folder, dtype)
    decides = {
        "weights": content,
        "tokenizer": hashlib.sha256(tokens.read_bytes()).hexdigest(),
        "config": dataclasses.asdict(folder.config),
        "head": dataclasses.asdict(folder.head),
        "max_tokens": limit,
        "lower": folder.lower,
        "dtype": dtype,
    }
    backbone = encoder(
        folder.config,
        folder.head,
        name=name or folder.path.resolve().name,
        max_tokens=limit,
        fingerprint=fingerprint(decides),
        tokenize=split,
    )
    return backbone, weights


def fingerprint(decides: dict) -> str:
    """SHA-256 of what decides a backbone's function."""
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
