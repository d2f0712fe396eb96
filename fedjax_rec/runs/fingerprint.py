"""Short hashes of everything a run reads.

A configuration names files and folders; their contents can change between a run and its
continuation. So can values chosen by the machine, such as the size of chunks.
"""

import hashlib
from typing import Any

import jax
import numpy as np

from fedjax_rec.core.arrays import Tree
from fedjax_rec.simulation.simulation import Simulation


def fingerprint(simulation: Simulation) -> dict[str, Any]:
    """Plain values that are equal if two runs read the same data.

    Args:
        simulation: a simulation that has not run yet.

    Returns:
        Hashes of the split's `train`, `val` and `test`, `clients` (the partition),
        `frozen` arrays and `hparams`; and the `chunks`.
    """
    return {
        **simulation.digests,
        "frozen": digest(simulation.frozen),
        "hparams": digest(simulation.recipe.hparams),
        "chunks": list(simulation.chunks),
    }


def digest(tree: Tree) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of all leaves.

    >>> digest({"a": np.arange(3)}) == digest({"a": np.arange(3)})
    True
    >>> digest({"a": np.arange(3)}) == digest({"b": np.arange(3)})
    False
    """
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(leaf)
        name = jax.tree_util.keystr(path)
        result.update(f"{name} {array.dtype}{array.shape}".encode())
        result.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return result.hexdigest()[:16]
