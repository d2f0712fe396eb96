"""A population that lies on the devices: each holds its own clients, all the time."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import FederatedAlgorithm, Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.pack import pack
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.population import initial_personal, make_run_rounds


class Block(NamedTuple):
    """Some clients where a program can read them, in slots dealt over the devices.

    Attributes:
        order: `[n]` positions in what was asked for; -1 is padding.
        rows: `[n]` int32, each client's row on its own device.
        personal: of the device's rows.
        data: of the same rows.
    """

    order: np.ndarray
    rows: Array
    personal: Tree
    data: ClientData


class Resident:
    """Personal state and clients' data on the devices.

    Attributes:
        still: clients stay where they are.

    Args:
        recipe: the system.
        algorithm: its `round`, for the axis `clients` unless the mesh has one device.
        sampler: who takes part.
        data: of all clients, as NumPy arrays.
        mesh: of the devices.
        key: the experiment's root key.
        capacity: most rounds of one program.
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
        self._num_clients = data.num_clients
        count = meshes.shares(mesh)
        self._groups = meshes.deal(np.asarray(data.buckets), count)
        self._rows = max(len(group) for group in self._groups)
        slots = np.empty(data.num_clients, np.int32)
        for share, group in enumerate(self._groups):
            slots[group] = share * self._rows + np.arange(len(group))
        self._slots, self._key = slots, meshes.place(mesh, key)
        self._own = meshes.own_shares(mesh)
        interactions = exclusions = 0
        for group in self._groups:
            interactions = max(interactions, int(data.interactions.size[group].sum()))
            exclusions = max(exclusions, int(data.exclude.size[group].sum()))
        parts = pack(
            data,
            [self._groups[share] for share in self._own],
            clients=self._rows,
            interactions=interactions + 1,
            exclusions=exclusions + 1,
        )
        placed: Any = meshes.place_dealt(
            mesh, dict(zip(self._own, _without_pool(parts), strict=True))
        )
        self.data = _with_pool(placed, meshes.place(mesh, data.pool))
        self._start(recipe, key)
        self._run_rounds = make_run_rounds(
            algorithm, sampler, capacity, None if mesh.size == 1 else mesh
        )
        self._tables = meshes.place(mesh, sampler.tables)
        self._placed_slots = meshes.place(mesh, slots) if mesh.size > 1 else None

    def _start(self, recipe: Recipe, key: Array) -> None:
        parts = {}
        for share in self._own:
            ids = np.full(self._rows, self._num_clients, np.int32)
            ids[: len(self._groups[share])] = self._groups[share]
            parts[share] = initial_personal(recipe, key, jnp.asarray(ids))
        self._personal = meshes.place_dealt(self.mesh, parts)

    @property
    def personal(self) -> Tree:
        """Personal parameters `[N, ...]` in the order of the clients."""
        if self.mesh.size == 1:
            return self._personal
        at = meshes.place(self.mesh, self._slots)
        whole = jax.sharding.NamedSharding(self.mesh, meshes.EVERYWHERE)

        def take(personal: Tree, at: Array) -> Tree:
            return jax.tree.map(lambda x: x[at], personal)

        return jax.jit(take, out_shardings=whole)(self._personal, at)

    @personal.setter
    def personal(self, personal: Tree) -> None:
        if self.mesh.size == 1:
            self._personal = meshes.place(self.mesh, personal)
            return

        def share(leaf: Any, group: np.ndarray) -> np.ndarray:
            part = np.zeros((self._rows, *leaf.shape[1:]), leaf.dtype)
            part[: len(group)] = np.asarray(leaf)[group]
            return part

        parts = {
            number: jax.tree.map(
                lambda x, n=number: share(x, self._groups[n]), personal
            )
            for number in self._own
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
        """All of `clients` `[E]` at once, each on the device it lives on.

        Absent clients (ids of `N`) lie on the first.
        """
        here = clients < self._num_clients
        slot = np.where(here, self._slots[np.where(here, clients, 0)], self._rows)
        owner = np.where(here, slot // self._rows, 0)
        count = meshes.shares(self.mesh)
        length = max(1, int(np.bincount(owner, minlength=count).max()))
        order = np.full(count * length, -1)
        for share in range(count):
            at = np.flatnonzero(owner == share)
            order[share * length : share * length + len(at)] = at
        row = np.where(here, slot - owner * self._rows, self._rows)
        rows = np.where(order >= 0, row[order], self._rows).astype(np.int32)
        placed = meshes.place(self.mesh, rows, meshes.DEALT)
        yield Block(order, placed, self._personal, self.data)


def _without_pool(parts: list[ClientData]) -> list[ClientData]:
    return [_with_pool(part, None) for part in parts]


def _with_pool(data: ClientData, pool: Any) -> ClientData:
    return dataclasses.replace(data, pool=pool)
