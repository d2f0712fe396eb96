"""A population on the devices; each device holds its own clients all the time."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.drawn_rounds import make_one_round, many_rounds
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.personal import initial_personal, pieces, start_of
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.simulation.round import federated


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


class Setup(NamedTuple):
    """A population and the system that trains it.

    Attributes:
        recipe: the system.
        sampler: draws cohorts.
        programs: programs of the system.
        chunks: `V` of each size bucket.
        lifted: see `federated`.
        data: all clients' data, as NumPy arrays or memory maps.
        mesh: the devices.
        key: root key of the experiment.
        capacity: largest number of rounds of one program, and of cohorts drawn at once.
        ids: `[N]` the clients' ids, which decide their initial values; by default their
            positions.
    """

    recipe: Recipe
    sampler: Sampler
    programs: Programs
    chunks: tuple[int, ...]
    lifted: bool
    data: ClientData
    mesh: Mesh
    key: Array
    capacity: int
    ids: np.ndarray | None = None


class Resident:
    """Personal state and clients' data on the devices.

    Attributes:
        still: whether clients stay on their device.
        waited: seconds that the devices waited for the host: none.

    Args:
        setup: the population and the system.
    """

    still = True

    def __init__(self, setup: Setup):
        data, mesh, key, client_ids = setup.data, setup.mesh, setup.key, setup.ids
        self.mesh, self.waited = mesh, 0.0
        self._key, self._num_clients = meshes.place(mesh, key), data.num_clients
        groups = meshes.deal(np.asarray(data.buckets), meshes.shares(mesh))
        self._rows = max(len(group) for group in groups)
        self._ids = meshes.in_slots(groups, self._rows, data.num_clients)
        present = self._ids < data.num_clients
        self._slots = np.empty(data.num_clients, np.int32)
        self._slots[self._ids[present]] = np.flatnonzero(present)
        self.data = meshes.place_clients(
            mesh,
            data,
            groups,
            clients=self._rows,
            lengths=meshes.column_lengths(data, groups),
            pool=meshes.place(mesh, data.pool),
        )

        draw = setup.programs.get(start_of)

        def start(slots: np.ndarray) -> Tree:
            ids = slots if client_ids is None else np.append(client_ids, 0)[slots]
            return initial_personal(setup.recipe, key, jnp.asarray(ids), draw)

        self._personal = meshes.place_taken(mesh, self._ids, start)
        settings = (setup.chunks, setup.lifted, mesh, setup.capacity)
        self._run_rounds = setup.programs.get(_make_rounds, *settings)
        self._tables = meshes.place(mesh, setup.sampler.tables)
        self._placed_slots = meshes.place(mesh, self._slots) if mesh.size > 1 else None

    @property
    def personal(self) -> Tree:
        """Personal parameters `[N, ...]` in the order of the clients.

        With several devices they are NumPy arrays: all of them may not fit a device.
        """
        if self.mesh.size == 1:
            return self._personal
        count = self._num_clients
        replicated = NamedSharding(self.mesh, EVERYWHERE)
        take = jax.jit(trees.take, out_shardings=replicated)
        gathered = jax.tree.map(
            lambda x: np.empty((count, *x.shape[1:]), x.dtype), self._personal
        )
        for rows in pieces(count):
            slots = meshes.place(self.mesh, self._slots[rows])
            jax.tree.map(
                lambda x, y, rows=rows: x.__setitem__(rows, np.asarray(y)),
                gathered,
                take(self._personal, slots),
            )
        return gathered

    @personal.setter
    def personal(self, personal: Tree) -> None:
        self._personal = self._placed(personal)

    @contextlib.contextmanager
    def holding(self, groups: dict[str, Tree]) -> Iterator[None]:
        """Replaces personal groups `[N, ...]` for the block."""
        before = self._personal
        self._personal = {**before, **self._placed(groups)}
        try:
            yield
        finally:
            self._personal = before

    def _placed(self, personal: Tree) -> Tree:
        if self.mesh.size == 1:
            return meshes.place(self.mesh, personal)

        def take(ids: np.ndarray) -> Tree:
            clients = np.minimum(ids, self._num_clients - 1)
            return jax.tree.map(lambda x: np.asarray(x)[clients], personal)

        return meshes.place_taken(self.mesh, self._ids, take)

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


def _make_rounds(
    programs: Programs,
    chunks: tuple[int, ...],
    lifted: bool,
    mesh: Mesh,
    capacity: int,
):
    """`many_rounds` of a population that is dealt over a mesh, jitted."""
    axis = meshes.client_axis(mesh)
    algorithm = federated(programs.recipe, chunks, lifted=lifted, devices=axis)
    one_round = make_one_round(algorithm, programs.sample, axis)
    return meshes.program(
        many_rounds(one_round, capacity),
        mesh,
        (EVERYWHERE, DEALT, DEALT),
        (EVERYWHERE, DEALT, EVERYWHERE),
        donate=(0, 1),
    )
