"""A pretrained checkpoint as a `Backbone`, and its tokenizer."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from fedjax_rec.backbones.encoder import encoder
from fedjax_rec.backbones.folder import read_folder, require
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
    check_max_tokens(limit, 1, folder.config.max_positions)
    file = folder.model / TOKENIZER
    tokenizer = load_tokenizer(file, limit, folder.config.vocab_size, folder.lower)
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


TOKENIZER = "tokenizer.json"
_FIX = (
    "Transformers makes it from a vocabulary: "
    "AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
)


def load_tokenizer(
    path: Path, max_tokens: int, vocab_size: int, lower: bool = False
) -> Callable[[Iterable[str]], list[np.ndarray]]:
    """Loads a tokenizer as a function of texts.

    Args:
        path: path of `tokenizer.json`.
        max_tokens: longer texts lose their end; the special tokens stay.
        vocab_size: number of tokens that the model has embeddings for.
        lower: whether texts are converted to lower case first.

    Returns:
        `(texts) -> list of [T] int32 arrays`.

    Raises:
        FileError: the file is missing or damaged, has tokens without an embedding,
            or `max_tokens` has no room between the special tokens.
    """
    require(path, _FIX)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises `Exception` itself
        raise FileError(
            f"is damaged ({error})", file=path, fix="Fetch it again"
        ) from error
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocab_size:
        raise FileError(
            f"token id {largest}",
            file=path,
            expected=f"less than the model's vocab_size {vocab_size}",
            fix="Tokenizer and weights belong to different models",
        )
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    check_max_tokens(max_tokens, special + 1)
    # A published file may set its own length and padding; texts are packed instead.
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)

    def tokenize(texts: Iterable[str]) -> list[np.ndarray]:
        texts = check_texts(texts)
        if lower:
            texts = [text.lower() for text in texts]
        return [np.asarray(e.ids, np.int32) for e in tokenizer.encode_batch(texts)]

    return tokenize


def check_max_tokens(max_tokens: int, least: int, most: int | None = None) -> None:
    """Checks the length limit against special tokens and the model's positions.

    Raises:
        FileError: `max_tokens` is below `least` or above `most`.
    """
    if max_tokens < least or (most is not None and max_tokens > most):
        room = f"at least {least}" + (f" and at most {most}" if most else "")
        raise FileError(f"max_tokens {max_tokens}", expected=room, file="backbone")


def check_texts(texts: Iterable[str]) -> list[str]:
    """Returns `texts` as a list.

    Raises:
        FileError: `texts` is a single string, or an element is not a string.
    """
    if isinstance(texts, str):
        raise FileError(
            "a single string", expected="a list of strings", file="tokenize"
        )
    texts = list(texts)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise FileError(
                f"{text!r} at index {i}", expected="a string", file="tokenize"
            )
    return texts
