"""What an adapter costs to hold and to send."""

import math
from typing import Any, TypedDict

import jax

from fedjax_rec.core.arrays import Tree


class Size(TypedDict):
    """Of a group: its numbers, and the bits of a message that holds them plainly."""

    parameters: int
    bits: int


def describe(params: dict[str, Tree], dtype: Any = None) -> dict[str, Size]:
    """Parameters and message bits of each group, and in `total`.

    Args:
        params: named groups of arrays or of `jax.ShapeDtypeStruct`s.
        dtype: what is sent; `None` for each array's own.

    >>> describe({"lora_a": jax.numpy.zeros((6, 4, 2))})["total"]
    {'parameters': 48, 'bits': 1536}
    """
    sizes = {name: _size(group, dtype) for name, group in params.items()}
    return {**sizes, "total": _size(params, dtype)}


def _size(tree: Tree, dtype: Any) -> Size:
    parameters = bits = 0
    for leaf in jax.tree.leaves(tree):
        count = math.prod(leaf.shape)
        parameters += count
        bits += count * jax.dtypes.itemsize_bits(dtype or leaf.dtype)
    return {"parameters": parameters, "bits": bits}
