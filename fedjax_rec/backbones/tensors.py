"""Reading a checkpoint's tensors into the tree of weights, hashed on the way."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from fedjax_rec.backbones import bert
from fedjax_rec.backbones.folder import Folder, require
from fedjax_rec.core.arrays import Tree
from fedjax_rec.storage.errors import FileError

FILE = "model.safetensors"
_FIX = (
    "Weights in another format (pytorch_model.bin) become safetensors with "
    "transformers: AutoModel.from_pretrained(DIR).save_pretrained(DIR)"
)
_MISMATCH = "config.json and the weights belong to different models"
_EMBEDDINGS = {
    "token": "word_embeddings.weight",
    "position": "position_embeddings.weight",
    "type": "token_type_embeddings.weight",
}
_LINEAR = {
    ("attention", "query"): "attention.self.query",
    ("attention", "key"): "attention.self.key",
    ("attention", "value"): "attention.self.value",
    ("attention", "output"): "attention.output.dense",
    ("ffn", "up"): "intermediate.dense",
    ("ffn", "down"): "output.dense",
}
_NORM = {"attention_norm": "attention.output.LayerNorm", "ffn_norm": "output.LayerNorm"}


class Tensors:
    """Tensors of one safetensors file, named without their common prefix.

    Args:
        path: the file.
        digest: a hash, updated with the name and content of each tensor that is read.
    """

    def __init__(self, path: Path, digest: Any):
        self._path, self._digest = require(path, _FIX), digest
        try:
            self._file = safe_open(path, framework="np")
            names = list(self._file.keys())
        except (SafetensorError, OSError) as error:
            raise self._damaged(error) from error
        self._names: dict[str, str] = {}
        for name in names:
            first, _, others = name.partition(".")
            short = others if first in ("bert", "roberta") else name
            # TensorFlow's names for the parameters of a LayerNorm.
            short = short.replace("LayerNorm.gamma", "LayerNorm.weight")
            self._names[short.replace("LayerNorm.beta", "LayerNorm.bias")] = name

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Reads one tensor.

        Raises:
            FileError: the tensor is missing, has another shape, or is not of a
                floating-point type.
        """
        if name not in self._names:
            raise FileError(
                f"no tensor {name} {list(shape)}", file=self._path, fix=_MISMATCH
            )
        try:
            value = self._file.get_tensor(self._names[name])
        except (SafetensorError, OSError, TypeError) as error:
            raise self._damaged(error) from error
        if value.shape != shape:
            raise FileError(
                f"tensor {name} of shape {list(value.shape)}",
                file=self._path,
                expected=str(list(shape)),
                fix=_MISMATCH,
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise FileError(
                f"tensor {name} of type {value.dtype}",
                file=self._path,
                expected="a floating-point type",
                fix="Choose a checkpoint that is not quantized",
            )
        value = np.ascontiguousarray(value)
        self._digest.update(f"{name} {value.dtype} {value.shape};".encode())
        self._digest.update(value.reshape(-1).view(np.uint8))
        return value

    def _damaged(self, error: Exception) -> FileError:
        return FileError(
            f"is truncated or damaged ({error})", file=self._path, fix="Fetch it again"
        )


def read_weights(folder: Folder, dtype: str) -> tuple[Tree, str]:
    """Reads the weights of a folder, and hashes all that it reads.

    Args:
        folder: contents of the small files.
        dtype: type of the weights.

    Returns:
        A dict of `embeddings`, `layers` (leaves `[L, ...]`) and `head`; and the
        SHA-256, in hexadecimal.

    Raises:
        FileError: a tensor does not match the configuration.
    """
    digest, config = hashlib.sha256(), folder.config
    tensors = Tensors(folder.model / FILE, digest)
    if f"encoder.layer.{config.num_layers}.output.dense.weight" in tensors:
        raise FileError(
            f"more layers than num_hidden_layers {config.num_layers}",
            file=folder.model / FILE,
            fix=_MISMATCH,
        )
    shapes = bert.shapes(config)
    # The order of reading is part of the hash, and so of caches' names.
    weights = {
        "embeddings": _embeddings(tensors, shapes["embeddings"], folder.first_position),
        "layers": _layers(tensors, shapes["layers"], dtype),
        "head": _head(folder, digest),
    }
    weights = jax.tree.map(
        lambda leaf: jnp.asarray(np.asarray(leaf, jnp.dtype(dtype))), weights
    )
    return weights, digest.hexdigest()


def _embeddings(tensors: Tensors, shapes: Tree, first: int) -> Tree:
    tables: Tree = {}
    for leaf, name in _EMBEDDINGS.items():
        rows, width = shapes[leaf]
        skip = first if leaf == "position" else 0
        tables[leaf] = tensors.take(f"embeddings.{name}", (rows + skip, width))[skip:]
    norm = _weight_and_bias(tensors.take, shapes["norm"], "embeddings.LayerNorm")
    return {**tables, "norm": norm}


def _layers(tensors: Tensors, shapes: Tree, dtype: str) -> Tree:
    def stack(name: str, shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty(shape, jnp.dtype(dtype))
        for i in range(shape[0]):
            # PyTorch stores a linear map as [out, in].
            out[i] = tensors.take(f"encoder.layer.{i}.{name}", shape[:0:-1]).T
        return out

    layers: Tree = {"attention": {}, "ffn": {}}
    for (block, site), name in _LINEAR.items():
        layers[block][site] = _weight_and_bias(stack, shapes[block][site], name)
    for norm, name in _NORM.items():
        layers[norm] = _weight_and_bias(stack, shapes[norm], name)
    return layers


def _weight_and_bias(take: Callable, shapes: dict[str, tuple], name: str) -> Tree:
    """Reads a linear map (`kernel`, `bias`) or layer norm (`scale`, `bias`)."""
    weight = "kernel" if "kernel" in shapes else "scale"
    return {
        weight: take(f"{name}.weight", shapes[weight]),
        "bias": take(f"{name}.bias", shapes["bias"]),
    }


def _head(folder: Folder, digest: Any) -> Tree:
    width, dense = folder.config.width, []
    for path in folder.dense:
        tensors = Tensors(path / FILE, digest)
        kernel = tensors.take("linear.weight", (width, width)).T
        bias = np.zeros(width, np.float32)
        if "linear.bias" in tensors:
            bias = tensors.take("linear.bias", (width,))
        dense.append({"kernel": kernel, "bias": bias})
    return {"dense": dense} if dense else {}
