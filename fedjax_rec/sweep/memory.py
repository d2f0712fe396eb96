"""How many points of a sweep fit on a device side by side."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Tree
from fedjax_rec.simulation.round import train_client
from fedjax_rec.simulation.side_by_side import resident_data
from fedjax_rec.simulation.simulation import Simulation

CPU_MOST = 8
"""Points of one `vmap` on a CPU: measured no faster beyond, see docs/sweeps.md."""
ACCELERATOR_MOST = 256
"""Points of one `vmap` on an accelerator; each keeps two files open."""


def free_bytes(device: Any) -> int:
    """Free memory of a device; for a CPU that of the system."""
    stats = device.memory_stats() or {} if device.platform != "cpu" else {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"MemAvailable:\s+(\d+)", text)[1]) * 1024  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        return 4 * 2**30  # the system does not say: assume a modest machine


def point_bytes(simulation: Simulation) -> int:
    """Estimated memory of one more point, in bytes.

    Server state, personal state (old and new), aggregate and pseudo-gradient, and the
    values that a chunk of clients keeps for the backward pass of one step.
    """
    recipe, data = simulation.recipe, resident_data(simulation)
    state, personal = simulation.state, simulation.personal

    def size(tree: Tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    chunk = 0
    for bucket, clients in enumerate(simulation.chunks):
        result = jax.eval_shape(
            train_client(recipe, data, bucket),
            state.shared,
            jax.tree.map(lambda x: x[0], personal),
            simulation.frozen,
            recipe.hparams,
            jnp.int32(0),
            simulation.key,
        )
        # Rows at the start, now, their gradients and those of the batch.
        chunk = max(chunk, 6 * clients * size(result))
    scores = 4 * simulation.user_chunk * data.num_items * 4
    server = 4 * size(state.shared) + 2 * size((state.optimizer, state.aggregator))
    return server + 2 * size(personal) + max(chunk, scores)


def most_points(per_point: int, devices: list[Any], memory: int = 0) -> int:
    """Number of points that each device may hold at once, at least one.

    Args:
        per_point: bytes of a point.
        devices: devices that share the points.
        memory: budget of all of them in bytes; 0 is half of the free memory.
    """
    on_cpu = devices[0].platform == "cpu"
    budget = memory or free_bytes(devices[0]) * (1 if on_cpu else len(devices)) // 2
    cap = CPU_MOST if on_cpu else ACCELERATOR_MOST
    return max(1, min(cap, budget // len(devices) // max(per_point, 1)))
