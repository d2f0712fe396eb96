"""Short hashes of everything a run reads.

A configuration names files and folders; their contents can change between a run and its
continuation. So can values chosen by the machine, such as the size of chunks.
"""

import hashlib
from typing import Any

import jax
import numpy as np

from fedjax_rec.core.arrays import Tree
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.simulation.simulation import Simulation


def fingerprint(simulation: Simulation) -> dict[str, Any]:
    """Plain values that are equal if two runs read the same data.

    Weights of a backbone are known by the fingerprint of its files: they may be too
    large for the host.

    Args:
        simulation: a simulation that has not run yet.

    Returns:
        Hashes of the split's `train`, `val` and `test`, `clients` (the partition),
        `frozen` arrays and `hparams`; the `backbone` if there is one; and the `chunks`.
    """
    backbone = simulation.notes.get("backbone", {}).get("fingerprint")
    # Not those that were placed: parts of them may lie on devices of other processes.
    frozen = simulation.recipe.frozen
    if backbone is not None:
        frozen = jax.tree_util.tree_map_with_path(_without_weights, frozen)
    return {
        **simulation.digests,
        "frozen": digest(frozen),
        **({} if backbone is None else {"backbone": backbone}),
        "hparams": digest(simulation.recipe.hparams),
        "chunks": list(simulation.chunks),
    }


def _without_weights(path: tuple[Any, ...], leaf: Any) -> Any:
    """The shape of a backbone's weight; any other leaf as it is."""
    names = [getattr(key, "key", None) for key in path]
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if "weights" in names else leaf


def digest(tree: Tree) -> str:
    """16 hexadecimal digits over names, types, shapes and bytes of all leaves.

    A `jax.ShapeDtypeStruct` counts by its name, type and shape.

    >>> digest({"a": np.arange(3)}) == digest({"a": np.arange(3)})
    True
    >>> digest({"a": np.arange(3)}) == digest({"b": np.arange(3)})
    False
    """
    result = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array, name = leaf, jax.tree_util.keystr(path)
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            array = np.ascontiguousarray(leaf)
        result.update(f"{name} {array.dtype}{array.shape}".encode())
        if isinstance(array, np.ndarray):
            result.update(array.view(np.uint8).data if array.ndim else array.tobytes())
    return result.hexdigest()[:16]


def content_of(data: Interactions) -> str:
    """A hash of all interactions, users and items, with their texts."""
    columns = ("user", "item", "rating", "timestamp", "position")
    facts: list[Any] = [data.name, dict(data.notes)]
    facts.append(digest({name: getattr(data, name) for name in columns}))
    for each in (data.users, data.items):
        titles = None if each.titles is None else list(each.titles)
        attributes = {name: list(values) for name, values in each.attributes.items()}
        facts.append([list(each.ids), titles, attributes])
    return hashlib.sha256(repr(facts).encode()).hexdigest()
