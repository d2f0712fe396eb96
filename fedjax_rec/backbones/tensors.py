"""From a checkpoint's tensors to the weights' tree, hashed on the way."""

import hashlib
from pathlib import Path
from typing import Any

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
    """The tensors of one safetensors file, without their common prefix.

    Args:
        path: of the file.
        digest: is given the name and content of each tensor that is taken.
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
            head, _, rest = name.partition(".")
            short = rest if head in ("bert", "roberta") else name
            # What TensorFlow called the parameters of a LayerNorm.
            short = short.replace("LayerNorm.gamma", "LayerNorm.weight")
            self._names[short.replace("LayerNorm.beta", "LayerNorm.bias")] = name

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def take(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """One tensor, of the given shape.

        Raises:
            FileError: it is missing, of another shape, or no floating numbers.
        """
        if name not in self._names:
            raise FileError(
                f"there is no tensor {name} {list(shape)}",
                file=self._path,
                fix="The checkpoint is of another model than its config.json says",
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
                fix="config.json and the weights belong to different models",
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise FileError(
                f"tensor {name} of type {value.dtype}",
                file=self._path,
                expected="floating numbers",
                fix="Choose a checkpoint that is not quantized",
            )
        value = np.ascontiguousarray(value)
        self._digest.update(f"{name} {value.dtype} {value.shape};".encode())
        self._digest.update(value.reshape(-1).view(np.uint8))
        return value

    def _damaged(self, error: Exception) -> FileError:
        return FileError(
            f"is cut short or damaged ({error})", file=self._path, fix="Fetch it again"
        )


def read_weights(folder: Folder, dtype: str) -> tuple[Tree, str]:
    """The weights of a folder, and the SHA-256 of all that was read.

    Args:
        folder: what the small files say.
        dtype: of the weights.

    Returns:
        A dict of `embeddings`, `layers` (leaves `[L, ...]`) and `head`; and the hash,
        as digits.

    Raises:
        FileError: a tensor is not what the configuration promises.
    """
    digest = hashlib.sha256()
    tensors, config = Tensors(folder.model / FILE, digest), folder.config
    extra = f"encoder.layer.{config.num_layers}.output.dense.weight"
    if extra in tensors:
        raise FileError(
            f"more layers than num_hidden_layers {config.num_layers}",
            file=folder.model / FILE,
            fix="config.json and the weights belong to different models",
        )
    expected = bert.shapes(config)
    weights = {
        "embeddings": _embeddings(
            tensors, expected["embeddings"], folder.first_position
        ),
        "layers": _layers(tensors, expected["layers"], dtype),
        "head": _head(folder, digest),
    }
    # Under float64 elsewhere, jnp.asarray alone would keep what the file has.
    return _cast(weights, jnp.dtype(dtype)), digest.hexdigest()


def _cast(tree: Tree, dtype: Any) -> Tree:
    if isinstance(tree, dict):
        return {name: _cast(value, dtype) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_cast(value, dtype) for value in tree]
    return jnp.asarray(np.asarray(tree, dtype))


def _embeddings(tensors: Tensors, expected: Tree, first: int) -> Tree:
    found: Tree = {}
    for leaf, name in _EMBEDDINGS.items():
        rows, width = expected[leaf]
        skip = first if leaf == "position" else 0
        found[leaf] = tensors.take(f"embeddings.{name}", (rows + skip, width))[skip:]
    norm = "embeddings.LayerNorm"
    found["norm"] = {
        "scale": tensors.take(f"{norm}.weight", expected["norm"]["scale"]),
        "bias": tensors.take(f"{norm}.bias", expected["norm"]["bias"]),
    }
    return found


def _layers(tensors: Tensors, expected: Tree, dtype: str) -> Tree:
    def stack(shape: tuple[int, ...], name: str) -> np.ndarray:
        out = np.empty(shape, jnp.dtype(dtype))
        for i in range(shape[0]):
            # PyTorch keeps a linear map as [out, in].
            value = tensors.take(f"encoder.layer.{i}.{name}", shape[:0:-1])
            out[i] = value.T
        return out

    found: Tree = {"attention": {}, "ffn": {}}
    for (block, site), name in _LINEAR.items():
        shapes = expected[block][site]
        found[block][site] = {
            "kernel": stack(shapes["kernel"], f"{name}.weight"),
            "bias": stack(shapes["bias"], f"{name}.bias"),
        }
    for norm, name in _NORM.items():
        found[norm] = {
            "scale": stack(expected[norm]["scale"], f"{name}.weight"),
            "bias": stack(expected[norm]["bias"], f"{name}.bias"),
        }
    return found


def _head(folder: Folder, digest: Any) -> Tree:
    width, dense = folder.config.width, []
    for place in folder.dense:
        tensors = Tensors(place / FILE, digest)
        kernel = tensors.take("linear.weight", (width, width)).T
        bias = np.zeros(width, np.float32)
        if "linear.bias" in tensors:
            bias = tensors.take("linear.bias", (width,))
        dense.append({"kernel": kernel, "bias": bias})
    return {"dense": dense} if dense else {}
