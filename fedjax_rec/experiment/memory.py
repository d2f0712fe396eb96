"""Memory that a run is certain to need, compared with what there is before compiling.

Aggregation rules that keep a cohort's deltas need `C` times the shared parameters, and
codecs with memory `N` times. Only these and the population are counted, so that a run
that is refused could not have started.
"""

import math
import os
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.experiment.location import population_bytes
from fedjax_rec.simulation.messages import TRANSFORM
from fedjax_rec.simulation.personal import initial_personal


class Need(NamedTuple):
    """A part of the memory of a run.

    Attributes:
        size: bytes.
        what: noun phrase.
        remedy: how to need less.
    """

    size: float
    what: str
    remedy: str


def check_memory(
    recipe: Recipe, data: ClientData, cohort_size: int, location: str, mesh: Mesh
) -> None:
    """Compares the need of a run with the memory of its devices and of the host.

    Args:
        recipe: the system; its rule may also refuse a cohort that is too small.
        data: the clients.
        cohort_size: `C`.
        location: `device`, `host` or `disk`, where the population is kept.
        mesh: the devices.

    Raises:
        ValueError: the need is larger, or the rule refuses the cohort.
    """
    on_devices, on_host = needs(recipe, data, cohort_size, location)
    device, local = mesh.local_devices[0], len(mesh.local_devices)
    if device.platform == "cpu":  # devices that share the memory of the host
        cohort, *others = on_devices
        every = cohort._replace(size=cohort.size * local)
        _compare([every, *others, *on_host], host_bytes(), "this machine")
        return
    on_devices = [on_devices[0], *(_over(need, mesh.size) for need in on_devices[1:])]
    stats = device.memory_stats() or {}
    _compare(on_devices, stats.get("bytes_limit"), "a device")
    _compare(on_host, host_bytes(), "this machine")


def needs(
    recipe: Recipe, data: ClientData, cohort_size: int, location: str
) -> tuple[list[Need], list[Need]]:
    """What the devices together need, that of the rule first, and what the host needs.

    Each device needs all of what the rule does.
    """
    shared = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    sums = jax.eval_shape(lambda x: recipe.aggregator.init(x, cohort_size), shared)
    rule = Need(
        tree_bytes(sums),
        f"what the aggregation rule keeps of a cohort of {cohort_size:,} clients",
        "a smaller cohort, or a rule that keeps no deltas, such as mean, norm_bound or "
        "majority_vote",
    )
    client = jax.eval_shape(lambda: initial_personal(recipe, jax.random.key(0), 1))
    memory = tree_bytes(client.get(TRANSFORM, ())) * data.num_clients
    clients = f"{data.num_clients:,} clients"
    population = [
        Need(memory, f"the codec's memories of {clients}", "a codec without feedback"),
        Need(
            population_bytes(recipe, data) - memory,
            f"the data and personal parameters of {clients}",
            "fewer clients or a narrower model",
        ),
    ]
    if location == "device":
        elsewhere = "store.location='host' or 'disk'"
        return [rule, *(_or(need, elsewhere) for need in population)], []
    if location == "host":
        return [rule], [_or(need, "store.location='disk'") for need in population]
    return [rule], []


def host_bytes() -> int | None:
    """Memory of the machine; `None` if the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def tree_bytes(tree: Tree) -> int:
    """Bytes of all leaves, arrays or shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _over(need: Need, devices: int) -> Need:
    return need._replace(size=need.size / devices)


def _or(need: Need, remedy: str) -> Need:
    return need._replace(remedy=f"{remedy}, or {need.remedy}")


def _compare(parts: list[Need], limit: int | None, owner: str) -> None:
    total = sum(need.size for need in parts)
    if limit is None or total <= limit:
        return
    parts = sorted(parts, reverse=True)
    large = [need for need in parts if need.size > total / 10]
    raise ValueError(
        f"this run needs at least {total / 1e9:,.1f} GB, and {owner} has "
        f"{limit / 1e9:,.1f} GB: "
        + "; ".join(
            f"{need.size / 1e9:,.1f} GB for {need.what} (use {need.remedy})"
            for need in large
        )
    )
