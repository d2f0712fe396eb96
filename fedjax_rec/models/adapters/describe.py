"""Sizes of parameter groups, in memory and in messages."""

import math
from typing import Any

import jax

from fedjax_rec.core.arrays import Tree


def describe(params: Tree, dtype: Any = None) -> dict[str, int]:
    """Counts parameters and message bits.

    Args:
        params: arrays or `jax.ShapeDtypeStruct`s.
        dtype: type in messages; by default each array's own.

    >>> describe({"lora_a": jax.numpy.zeros((6, 4, 2))})
    {'parameters': 48, 'bits': 1536}
    """
    parameters = bits = 0
    for leaf in jax.tree.leaves(params):
        count = math.prod(leaf.shape)
        parameters += count
        bits += count * jax.dtypes.itemsize_bits(dtype or leaf.dtype)
    return {"parameters": parameters, "bits": bits}
