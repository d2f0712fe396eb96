"""Storage of a population: chosen by memory, mapped on disk."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.experiment.settings import StoreConfig
from fedjax_rec.simulation.mesh import shares
from fedjax_rec.simulation.personal import FIX, initial_personal
from fedjax_rec.storage.errors import writable
from fedjax_rec.storage.files import temporary


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
    share = population_bytes(recipe, data) / shares(mesh)
    return "device" if share < limit / 2 else "host"


@contextlib.contextmanager
def on_disk(data: ClientData, folder: str) -> Iterator[tuple[ClientData, Path]]:
    """Client data as memory maps, and a folder for personal state.

    The folder belongs to this run. With several runs in one folder, each would
    overwrite the other's state.

    Args:
        data: NumPy arrays.
        folder: parent of the folder, created if absent; empty for the system's folder
            of temporary files.

    Yields:
        The data and the folder, which is removed at the end. The next run with the same
        parent removes it if this process is killed.

    Raises:
        FileError: the folder cannot be written.
    """
    owned = temporary(Path(folder), FIX) if folder else _in_system_folder()
    with owned as root:
        leaves, tree = jax.tree.flatten(data)
        mapped = []
        for number, leaf in enumerate(leaves):
            if not isinstance(leaf, np.memmap):
                path = root / f"data-{number}.npy"
                with writable(path, FIX):
                    np.save(path, leaf)
                leaf = np.load(path, mmap_mode="r")
            mapped.append(leaf)
        yield jax.tree.unflatten(tree, mapped), root


@contextlib.contextmanager
def _in_system_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fedjax_rec-population-") as name:
        yield Path(name)
