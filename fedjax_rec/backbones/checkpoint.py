"""Loading a checkpoint folder, without PyTorch."""

import dataclasses
import hashlib
import json
from pathlib import Path

from fedjax_rec.backbones import tokenize
from fedjax_rec.backbones.encoder import encoder
from fedjax_rec.backbones.folder import read_folder
from fedjax_rec.backbones.tensors import read_weights
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.storage.errors import FileError

DTYPES = ("float32", "bfloat16")


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    max_tokens: int | None = None,
    name: str | None = None,
) -> tuple[Backbone, Tree]:
    """Loads a BERT-like model from a folder in Hugging Face's layout.

    `modules.json` of sentence-transformers sets the pooling and the steps after it.
    Without the file, vectors are the mean over a text's tokens, not normalized.

    Args:
        path: folder with `config.json`, `model.safetensors` and `tokenizer.json`.
        dtype: type of weights and activations, `float32` or `bfloat16`.
        max_tokens: longest text, special tokens included; by default the folder's
            limit.
        name: name of the backbone; by default the folder's name.

    Returns:
        The backbone and its weights: a dict of `embeddings`, `layers` and `head`.

    Raises:
        FileError: a file is missing, damaged, or not supported.
    """
    check_dtype(dtype)
    folder = read_folder(Path(path).expanduser())
    limit = folder.max_tokens if max_tokens is None else max_tokens
    tokenize.check_max_tokens(limit, 1, folder.config.max_positions)
    file = folder.model / tokenize.FILE
    tokenizer = tokenize.load_tokenizer(
        file, limit, folder.config.vocab_size, folder.lower
    )
    weights, digest = read_weights(folder, dtype)
    backbone = encoder(
        folder.config,
        folder.head,
        name=name or folder.path.resolve().name,
        max_tokens=limit,
        tokenize=tokenizer,
        fingerprint=fingerprint(
            {
                "weights": digest,
                "tokenizer": hashlib.sha256(file.read_bytes()).hexdigest(),
                "config": dataclasses.asdict(folder.config),
                "head": dataclasses.asdict(folder.head),
                "max_tokens": limit,
                "lower": folder.lower,
                "dtype": dtype,
            }
        ),
    )
    return backbone, weights


def fingerprint(parts: dict) -> str:
    """SHA-256 of everything that determines a backbone's function."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_dtype(dtype: str) -> None:
    """Checks the type of weights and activations.

    Raises:
        FileError: `dtype` is not supported.
    """
    if dtype not in DTYPES:
        raise FileError(f"unknown dtype {dtype!r}", expected=" or ".join(DTYPES))
