"""A small random encoder that needs no file: for tests, and for trying things out."""

import dataclasses
import re
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.backbones import bert
from fedjax_rec.backbones.bert import BertConfig
from fedjax_rec.backbones.checkpoint import fingerprint
from fedjax_rec.backbones.encoder import check_dtype, encoder
from fedjax_rec.backbones.pooling import Head
from fedjax_rec.backbones.tokenize import check_max_tokens, check_texts
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.backbone import Backbone
from fedjax_rec.storage.errors import FileError

CLS, SEP, _FIRST = 1, 2, 3
_WORD = re.compile(r"\w+|[^\w\s]")
# Beside a word's, a position's share is small, and so is what a random layer adds:
# what a text says outweighs where, and survives the layers.
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
    """A randomly initialised BERT; texts that share words still lie close.

    Args:
        width: `D`.
        num_layers: of the stack.
        num_heads: divides `width`.
        ffn_width: by default `4 D`.
        vocab_size: words are hashed into so many tokens.
        max_tokens: longest text, with the two special tokens.
        dtype: of weights and activations, `float32` or `bfloat16`.
        seed: of the weights; equal on every machine.

    Returns:
        As `checkpoint.load`: mean pooling, normalised.

    Raises:
        FileError: an option makes no sense.
    """
    check_dtype(dtype)
    check_max_tokens(max_tokens, 3)
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
    head = Head("mean", ("normalize",))
    weights: Tree = jax.tree_util.tree_map_with_path(
        _Draw(seed, dtype), bert.shapes(config), is_leaf=lambda x: isinstance(x, tuple)
    )
    decides = {"seed": seed, "dtype": dtype, "config": dataclasses.asdict(config)}
    backbone = encoder(
        config,
        head,
        name="tiny",
        max_tokens=max_tokens,
        fingerprint=fingerprint({"tiny": 1, **decides}),
        tokenize=hashing_tokenizer(vocab_size, max_tokens),
    )
    return backbone, {**weights, "head": {}}


def hashing_tokenizer(
    vocab_size: int, max_tokens: int
) -> Callable[[Iterable[str]], list[np.ndarray]]:
    """Lower-cased words and punctuation, hashed, between two special tokens."""

    def tokenize(texts: Iterable[str]) -> list[np.ndarray]:
        found = []
        for text in check_texts(texts):
            words = _WORD.findall(text.lower())[: max_tokens - 2]
            ids = [zlib.crc32(w.encode()) % (vocab_size - _FIRST) for w in words]
            row = [CLS, *(_FIRST + i for i in ids), SEP]
            found.append(np.asarray(row, np.int32))
        return found

    return tokenize


class _Draw:
    """Random leaves. NumPy draws them, so that no accelerator rounds them its way."""

    def __init__(self, seed: int, dtype: str):
        self._random, self._dtype = np.random.default_rng(seed), dtype

    def __call__(self, path: Any, shape: tuple[int, ...]) -> jax.Array:
        leaf, owner = path[-1].key, path[-2].key
        if leaf in ("scale", "bias"):
            values = np.full(shape, float(leaf == "scale"))
        else:
            deviation = _DEVIATION[leaf] if leaf in _DEVIATION else shape[-2] ** -0.5
            deviation = float(deviation) * _DAMPED.get(owner, 1)
            values = deviation * self._random.standard_normal(shape)
        return jnp.asarray(values.astype(np.float32).astype(jnp.dtype(self._dtype)))
