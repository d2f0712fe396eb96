"""A small random encoder that needs no file, for tests and first trials."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.backbones import bert, checkpoint
from fedjax_rec.backbones.bert import BertConfig
from fedjax_rec.backbones.encoder import Head, encoder
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.storage.errors import FileError

CLS, SEP, _FIRST = 1, 2, 3
_WORD = re.compile(r"\w+|[^\w\s]")
# Positions and the output of random layers are small relative to word embeddings, so
# that a vector depends on a text's words more than on their order.
_DAMPED = {"output": 0.3, "down": 0.3}
_DEVIATION = {"token": 1.0, "position": 0.1, "type": 0.1}


def tiny(
    *,
    width: int = 32,
    num_layers: int = 2,
    num_heads: int = 4,
    ffn_width: int | None = None,
    vocab_size: int = 1024,
    max_tokens: int = 64,
    dtype: str = "float32",
    seed: int = 0,
) -> tuple[Backbone, Tree]:
    """A randomly initialised BERT that gives texts with common words similar vectors.

    Args:
        width: `D`.
        num_layers: number of layers.
        num_heads: attention heads; divides `width`.
        ffn_width: by default `4 D`.
        vocab_size: number of tokens that words are hashed into.
        max_tokens: longest text, with the two special tokens.
        dtype: type of weights and activations, `float32` or `bfloat16`.
        seed: seed of the weights, which are equal on every machine.

    Returns:
        The backbone and its weights, as from `checkpoint.load`. Vectors are the mean of
        the hidden states, normalized.

    Raises:
        FileError: an option is out of range.
    """
    checkpoint.check_dtype(dtype)
    checkpoint.check_max_tokens(max_tokens, 3)
    if width % num_heads:
        raise FileError(
            f"num_heads {num_heads}",
            file="tiny",
            expected=f"a divisor of width {width}",
        )
    config = BertConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        ffn_width=4 * width if ffn_width is None else ffn_width,
        max_positions=max_tokens,
    )
    parts = {"seed": seed, "dtype": dtype, "config": dataclasses.asdict(config)}
    backbone = encoder(
        config,
        Head("mean", ("normalize",)),
        name="tiny",
        max_tokens=max_tokens,
        fingerprint=checkpoint.fingerprint({"tiny": 1, **parts}),
        tokenize=hashing_tokenizer(vocab_size, max_tokens),
    )
    return backbone, {**_random_weights(config, seed, dtype), "head": {}}


def hashing_tokenizer(
    vocab_size: int, max_tokens: int
) -> Callable[[Iterable[str]], list[np.ndarray]]:
    """Tokenizer that hashes lower-cased words and punctuation."""

    def tokenize(texts: Iterable[str]) -> list[np.ndarray]:
        rows = []
        for text in checkpoint.check_texts(texts):
            words = _WORD.findall(text.lower())[: max_tokens - 2]
            ids = [zlib.crc32(w.encode()) % (vocab_size - _FIRST) for w in words]
            row = [CLS, *(_FIRST + i for i in ids), SEP]
            rows.append(np.asarray(row, np.int32))
        return rows

    return tokenize


def _random_weights(config: BertConfig, seed: int, dtype: str) -> Tree:
    """Random weights, drawn by NumPy: equal on all devices."""
    generator = np.random.default_rng(seed)

    def draw(path: Any, shape: tuple[int, ...]) -> jax.Array:
        leaf, owner = path[-1].key, path[-2].key
        if leaf in ("scale", "bias"):
            values = np.full(shape, float(leaf == "scale"))
        else:
            deviation = _DEVIATION[leaf] if leaf in _DEVIATION else shape[-2] ** -0.5
            deviation = float(deviation) * _DAMPED.get(owner, 1)
            values = deviation * generator.standard_normal(shape)
        return jnp.asarray(values.astype(np.float32).astype(jnp.dtype(dtype)))

    return jax.tree_util.tree_map_with_path(
        draw, bert.shapes(config), is_leaf=lambda x: isinstance(x, tuple)
    )
