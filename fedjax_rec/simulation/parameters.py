"""Parameters of a simulation in the host's memory: copied, and put back for a while."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedjax_rec.core.arrays import Tree
from fedjax_rec.simulation.loop import overwrite
from fedjax_rec.simulation.messages import without_state

if TYPE_CHECKING:
    from fedjax_rec.simulation.simulation import Simulation


class Parameters(NamedTuple):
    """The parameters after a round, as NumPy arrays that no later round changes.

    Attributes:
        round: number of finished rounds.
        shared: the server's groups; leaves may be `rows.Table`s.
        personal: the clients' groups, `[N, ...]` in the order of the clients, without
            the state of message transforms.
    """

    round: int
    shared: Tree
    personal: Tree


def parameters_of(sim: Simulation) -> Parameters:
    """Copies the current parameters; all processes of a run have to call it."""
    personal = without_state(sim.personal)
    done = int(sim.state.round)
    return Parameters(done, host_copy(sim.state.shared), host_copy(personal))


def selected_of(sim: Simulation) -> Parameters | None:
    """`parameters_of`, or `None` if personal parameters are on disk, without room."""
    on_disk = sim.folder is not None and without_state(sim.personal)
    return None if on_disk else parameters_of(sim)


def host_copy(tree: Tree) -> Tree:
    """The arrays of a tree as new NumPy arrays."""

    def copy_leaf(leaf: Any) -> np.ndarray:
        is_array = isinstance(leaf, jax.Array)
        if is_array and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.array(leaf)

    return jax.tree.map(copy_leaf, tree)


@contextlib.contextmanager
def held(sim: Simulation, parameters: Parameters) -> Iterator[None]:
    """Gives a simulation other parameters for the block, and its own back after it."""
    before = sim.state
    shared = overwrite(before.shared, parameters.shared)
    done = overwrite(before.round, np.int32(parameters.round))
    sim.state = dataclasses.replace(before, shared=shared, round=done)
    try:
        with sim.population.holding(parameters.personal):
            yield
    finally:
        sim.state = before


def put(sim: Simulation, parameters: Parameters) -> None:
    """Replaces the parameters of a simulation, and the number of its round."""
    state = sim.state
    shared = overwrite(state.shared, parameters.shared)
    done = overwrite(state.round, np.int32(parameters.round))
    sim.state = dataclasses.replace(state, shared=shared, round=done)
    personal = sim.personal
    groups = {name: personal[name] for name in parameters.personal}
    sim.personal = {**personal, **overwrite(groups, parameters.personal)}
