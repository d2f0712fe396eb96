"""Where an experiment runs: its devices, and where its population lies."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation.mesh import make_mesh
from fedjax_rec.simulation.population import initial_personal


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """The devices of a run. More of them change results by rounding alone.

    Attributes:
        devices: how many; 0 takes all there are (on a CPU one a core).
        model: devices that hold a large backbone together, each a part of its weights.
        items: devices that hold large item tables together, each a part of the rows.
    """

    devices: int = 0
    model: int = 1
    items: int = 1

    def make(self) -> Mesh:
        """The mesh.

        Raises:
            ValueError: there are no such devices, or both second axes are asked for.
        """
        for name in ("model", "items"):
            if getattr(self, name) < 1:
                raise ValueError(f"mesh.{name} must be at least 1")
        if self.devices < 0:
            raise ValueError(f"mesh.devices must not be negative, got {self.devices}")
        if self.model > 1 and self.items > 1:
            raise ValueError(
                f"mesh.model={self.model} and mesh.items={self.items}: split either "
                "the backbone or the item tables"
            )
        return make_mesh(self.devices, max(self.model, self.items))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """Where clients' data and personal state lie between rounds.

    Attributes:
        store: on the `device`; on the `host`, from which each round brings its cohort
            while the one before computes; on `disk`, as memory maps of the host; or
            `auto`: on the device where they take less than half of its memory.
        folder: of the memory maps; by default a temporary one, removed at the end.
        keep: keep what data, split and partition come to in the cache, for the next run
            and for the other processes of this one.
    """

    store: Literal["auto", "device", "host", "disk"] = "auto"
    folder: str = ""
    keep: bool = True


def population_bytes(recipe: Recipe, data: ClientData) -> int:
    """What clients' data and personal state take."""
    key = jax.random.key(0)
    one = jax.eval_shape(lambda: initial_personal(recipe, key, 1))
    sizes = (np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(one))
    data_bytes = sum(np.asarray(x).nbytes for x in jax.tree.leaves(data))
    return int(data.num_clients * sum(sizes) + data_bytes)


def choose_store(
    config: PopulationConfig, recipe: Recipe, data: ClientData, mesh: Mesh
) -> str:
    """`device`, `host` or `disk`."""
    if config.store != "auto":
        return config.store
    stats = mesh.local_devices[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    if limit is None or jax.process_count() > 1:  # a CPU: its memory is the host's
        return "device"
    share = population_bytes(recipe, data) / mesh.size
    return "device" if share < limit / 2 else "host"


def on_disk(data: ClientData, folder: str) -> tuple[ClientData, Path]:
    """Client data as memory maps, and where personal state may be mapped, too.

    Args:
        data: as NumPy arrays.
        folder: made where absent; empty is a temporary one.
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
    # Kept until the process ends, when it is removed.
    _TEMPORARY.append(tempfile.TemporaryDirectory(prefix="fedjax_rec-population-"))
    return Path(_TEMPORARY[-1].name)
