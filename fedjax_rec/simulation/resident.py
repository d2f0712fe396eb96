"""A population on the devices; each device holds its own clients all the time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import FederatedAlgorithm, Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.many_rounds import make_one_round, many_rounds
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.personal import initial_personal


class Block(NamedTuple):
    """Clients on the devices, in slots dealt over them.

    Attributes:
        order: `[n]` positions among the requested clients; -1 is padding.
        rows: `[n]` int32, each client's row on its own device.
        personal: personal parameters of the devices' rows.
        data: client data of the same rows.
    """

    order: np.ndarray
    rows: Array
    personal: Tree
    data: ClientData


class Resident:
    """Personal state and clients' data on the devices.

    Attributes:
        still: whether clients stay on their device.
        waited: seconds that the devices waited for the host: none.

    Args:
        recipe: the system.
        algorithm: the recipe bound to `mesh.client_axis`.
        sampler: draws cohorts.
        data: all clients' data, as NumPy arrays.
        mesh: the devices.
        key: root key of the experiment.
        capacity: largest number of rounds of one program.
    """

    still = True

    def __init__(
        self,
        recipe: Recipe,
        algorithm: FederatedAlgorithm,
        sampler: Sampler,
        data: ClientData,
        mesh: Mesh,
        key: Array,
        capacity: int,
    ):
        self.mesh, self.waited = mesh, 0.0
        self._key, self._num_clients = meshes.place(mesh, key), data.num_clients
        groups = meshes.deal(np.asarray(data.buckets), meshes.shares(mesh))
        self._rows = max(len(group) for group in groups)
        self._slots = np.empty(data.num_clients, np.int32)
        for share, group in enumerate(groups):
            self._slots[group] = share * self._rows + np.arange(len(group))
        self._own = {share: groups[share] for share in meshes.own_shares(mesh)}
        sizes = (np.asarray(data.interactions.size), np.asarray(data.exclude.size))
        interactions, exclusions = (
            max(int(size[group].sum()) for group in groups) + 1 for size in sizes
        )
        self.data = meshes.place_clients(
            mesh,
            data,
            self._own,
            clients=self._rows,
            lengths=(interactions, exclusions),
            pool=meshes.place(mesh, data.pool),
        )
        parts = {}
        for share, group in self._own.items():
            ids = np.full(self._rows, data.num_clients, np.int32)
            ids[: len(group)] = group
            parts[share] = initial_personal(recipe, key, jnp.asarray(ids))
        self._personal = meshes.place_dealt(mesh, parts)
        one_round = make_one_round(algorithm, sampler, meshes.client_axis(mesh))
        out = (EVERYWHERE, DEALT, EVERYWHERE)
        self._run_rounds = meshes.program(
            many_rounds(one_round, capacity),
            mesh,
            (EVERYWHERE, DEALT, DEALT),
            out,
            donate=(0, 1),
        )
        self._tables = meshes.place(mesh, sampler.tables)
        self._placed_slots = meshes.place(mesh, self._slots) if mesh.size > 1 else None

    @property
    def personal(self) -> Tree:
        """Personal parameters `[N, ...]` in the order of the clients."""
        if self.mesh.size == 1:
            return self._personal
        replicated = NamedSharding(self.mesh, EVERYWHERE)
        slots = meshes.place(self.mesh, self._slots)
        return jax.jit(trees.take, out_shardings=replicated)(self._personal, slots)

    @personal.setter
    def personal(self, personal: Tree) -> None:
        if self.mesh.size == 1:
            self._personal = meshes.place(self.mesh, personal)
            return

        def part_of(leaf: Any, group: np.ndarray) -> np.ndarray:
            part = np.zeros((self._rows, *leaf.shape[1:]), leaf.dtype)
            part[: len(group)] = np.asarray(leaf)[group]
            return part

        parts = {
            share: jax.tree.map(lambda x, group=group: part_of(x, group), personal)
            for share, group in self._own.items()
        }
        self._personal = meshes.place_dealt(self.mesh, parts)

    def advance(
        self, state: ServerState, frozen: Tree, hparams: Tree, count: int
    ) -> tuple[ServerState, dict[str, np.ndarray]]:
        """Runs `count` rounds as one program."""
        state, self._personal, log = self._run_rounds(
            state,
            self._personal,
            self.data,
            frozen,
            hparams,
            self._key,
            self._placed_slots,
            self._tables,
            np.int32(count),
        )
        return state, {name: np.asarray(column)[:count] for name, column in log.items()}

    def blocks(self, clients: np.ndarray) -> Iterator[Block]:
        """All of `clients` `[E]` at once, each on its own device.

        Absent clients (id `N`) are dealt to the first device.
        """
        present = clients < self._num_clients
        slot = np.where(present, self._slots[np.where(present, clients, 0)], self._rows)
        owner = np.where(present, slot // self._rows, 0)
        count = meshes.shares(self.mesh)
        length = max(1, int(np.bincount(owner, minlength=count).max()))
        order = np.full(count * length, -1)
        for share in range(count):
            positions = np.flatnonzero(owner == share)
            order[share * length : share * length + len(positions)] = positions
        row = np.where(present, slot - owner * self._rows, self._rows)
        rows = np.where(order >= 0, row[order], self._rows).astype(np.int32)
        placed = meshes.place(self.mesh, rows, DEALT)
        yield Block(order, placed, self._personal, self.data)
