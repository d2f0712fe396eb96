"""A user who is known by a list of items only, as a client of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.data.clients import lay_out, with_rating_dtype
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition.units import Partition
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.evaluation import Audience
from fedjax_rec.simulation.messages import without_state
from fedjax_rec.simulation.resident import Resident

if TYPE_CHECKING:
    from fedjax_rec.simulation.simulation import Simulation


def newcomer(sim: Simulation, items: np.ndarray) -> tuple[Audience, Any]:
    """A client that holds the items, for user 0, and frozen arrays with its history.

    Args:
        sim: the simulation.
        items: `[H]`, the latest last.

    Returns:
        The client, and the frozen arrays that its scores read.

    Raises:
        ValueError: the system has no way to rank for such a user.
    """
    if reason := why_not(sim):
        raise ValueError(f"no recommendations from a list of items: {reason}")
    train, count = sim.split.train, len(items)
    rows_ = np.arange(count, dtype=np.int64)
    held = Interactions(
        user=np.zeros(count, np.int32),
        item=items.astype(np.int32),
        rating=np.ones(count, np.float32),
        timestamp=rows_,
        position=rows_,
        users=train.users,
        items=train.items,
        name="history",
    )
    partition = Partition(
        client=np.zeros(count, np.int32),
        num_clients=1,
        name="history",
        user_of_client=np.zeros(1, np.int32),
    )
    pool = None if sim.data.pool is None else np.asarray(sim.data.pool)
    data = lay_out(held, partition, pool=pool, max_buckets=1)
    dtype = sim.data.interactions.columns["rating"].dtype
    data = with_rating_dtype(data, dtype)
    ids = np.array([sim.data.num_clients], np.int32)
    population = Resident(sim.setup._replace(data=data, ids=ids))
    audience = Audience(population, data, np.zeros(1, np.int32), (1,), ids)
    return audience, _with_history(sim, items)


def why_not(sim: Simulation) -> str:
    """The reason why a list of items does not describe a user; empty if it does."""
    recipe, model = sim.recipe, sim.recipe.model
    if model.stack is not None:
        return "each client of this system chooses among several models"
    if recipe.constants:
        names = ", ".join(recipe.constants)
        return f"the system reads facts of each client ({names})"
    if any(table.space == "user" for table in rows.tables_of(sim.state.shared)):
        return "the system keeps a row for each user, and a new user has none"
    personal = jax.tree.leaves(without_state(sim.personal))
    if sim.protocol.evaluated != "aggregated":
        return ""
    if personal:
        return (
            "the personal parameters of a new user were never fitted. Train with "
            "protocol.evaluated='reconstructed' or 'tuned', which fit them on the items"
        )
    if not _reads_history(sim):
        return "the system reads nothing about a user"
    return ""


def _reads_history(sim: Simulation) -> bool:
    return isinstance(sim.frozen, dict) and "history" in sim.frozen


def _with_history(sim: Simulation, items: np.ndarray) -> Any:
    """Frozen arrays in which user 0 has these items as its history."""
    if not _reads_history(sim):
        return sim.frozen
    length, num_items = sim.frozen["history"].shape[1], sim.split.train.num_items
    history = np.full((1, length), num_items, np.int32)
    latest = items[::-1][:length]
    history[0, : len(latest)] = latest
    history = jnp.asarray(history, sim.frozen["history"].dtype)
    return {**sim.frozen, "history": meshes.place(sim.mesh, history)}
