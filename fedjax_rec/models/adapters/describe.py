"""Sizes of parameter groups, in memory and in messages."""

import math
from typing import Any

import jax

from fedjax_rec.core.arrays import Tree


def describe(params: dict[str, Tree], dtype: Any = None) -> dict[str, dict[str, int]]:
    """Counts parameters and message bits of each group, and of all as `total`.

    Args:
        params: named groups of arrays or of `jax.ShapeDtypeStruct`s.
        dtype: type in messages; by default each array's own.

    >>> describe({"lora_a": jax.numpy.zeros((6, 4, 2))})["total"]
    {'parameters': 48, 'bits': 1536}
    """

    def size(tree: Tree) -> dict[str, int]:
        parameters = bits = 0
        for leaf in jax.tree.leaves(tree):
            count = math.prod(leaf.shape)
            parameters += count
            bits += count * jax.dtypes.itemsize_bits(dtype or leaf.dtype)
        return {"parameters": parameters, "bits": bits}

    return {
        **{name: size(group) for name, group in params.items()},
        "total": size(params),
    }
