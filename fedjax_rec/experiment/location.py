"""Storage of a population: chosen by memory, mapped on disk."""

import tempfile
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.experiment.settings import StoreConfig
from fedjax_rec.simulation.personal import initial_personal


def population_bytes(recipe: Recipe, data: ClientData) -> int:
    """Bytes of the clients' data and personal state."""
    key = jax.random.key(0)
    client = jax.eval_shape(lambda: initial_personal(recipe, key, 1))
    sizes = (np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(client))
    data_bytes = sum(np.asarray(x).nbytes for x in jax.tree.leaves(data))
    return int(data.num_clients * sum(sizes) + data_bytes)


def choose_location(
    config: StoreConfig, recipe: Recipe, data: ClientData, mesh: Mesh
) -> str:
    """`device`, `host` or `disk`."""
    if config.location != "auto":
        return config.location
    stats = mesh.local_devices[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    if limit is None or jax.process_count() > 1:  # a CPU: its memory is the host's
        return "device"
    share = population_bytes(recipe, data) / mesh.size
    return "device" if share < limit / 2 else "host"


def on_disk(data: ClientData, folder: str) -> tuple[ClientData, Path]:
    """Client data as memory maps, and the folder for personal state.

    Args:
        data: NumPy arrays.
        folder: made if absent; empty for a temporary one, which is removed when the
            process ends.
    """
    root = Path(folder) if folder else _temporary()
    root.mkdir(parents=True, exist_ok=True)
    leaves, tree = jax.tree.flatten(data)
    mapped = []
    for number, leaf in enumerate(leaves):
        if isinstance(leaf, np.memmap):
            mapped.append(leaf)
            continue
        path = root / f"data-{number}.npy"
        np.save(path, leaf)
        mapped.append(np.load(path, mmap_mode="r"))
    return jax.tree.unflatten(tree, mapped), root


_TEMPORARY: list[tempfile.TemporaryDirectory] = []


def _temporary() -> Path:
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="fedjax_rec-population-"))
    return Path(_TEMPORARY[-1].name)
