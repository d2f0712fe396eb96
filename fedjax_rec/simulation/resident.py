"""A population on the devices; each device holds its own clients all the time."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fedjax_rec.core import keys, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Cohort, FederatedAlgorithm, Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.profiling.stages import SAMPLING, staged
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.personal import initial_personal, pieces


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
        algorithm: the recipe bound to `mesh.client_axis`.
        sampler: draws cohorts.
        data: all clients' data, as NumPy arrays or memory maps.
        mesh: the devices.
        key: root key of the experiment.
        capacity: largest number of rounds of one program, and of cohorts drawn at once.
        ids: `[N]` the clients' ids, which decide their initial values; by default their
            positions.
    """

    recipe: Recipe
    algorithm: FederatedAlgorithm
    sampler: Sampler
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
        recipe, algorithm, sampler, data, mesh, key, capacity, client_ids = setup
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

        def start(slots: np.ndarray) -> Tree:
            ids = slots if client_ids is None else np.append(client_ids, 0)[slots]
            return initial_personal(recipe, key, jnp.asarray(ids))

        self._personal = meshes.place_taken(mesh, self._ids, start)
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


def draw_cohort(sampler: Sampler, tables: Tree, key: Array, number: Array):
    """The cohort of a round, from the root key of the experiment."""
    cohort_key = keys.derive(key, keys.Purpose.COHORT, number)
    return staged(SAMPLING, sampler.sample)(tables, cohort_key, number)


def local_rows(slots: Array | None, ids: Array, rows: int, axis: str | None) -> Array:
    """Rows `[C]` of clients on this device; clients of other devices are past the end.

    Args:
        slots: `[N]` the row of each client in the concatenated arrays of all devices;
            `None` if it is the client's id.
        ids: `[C]`, `N` if absent.
        rows: number of rows of this device.
        axis: the axis of the mesh.
    """
    if slots is None or axis is None:
        return ids
    slot = slots.at[ids].get(mode="fill", fill_value=jnp.iinfo(slots.dtype).max)
    row = slot - jax.lax.axis_index(axis) * rows
    return jnp.where((row >= 0) & (row < rows), row, rows)


def make_one_round(
    algorithm: FederatedAlgorithm, sampler: Sampler, axis: str | None = None
):
    """Builds a round with its draw of a cohort.

    Args:
        algorithm: its `round` joins the devices of `axis`.
        sampler: draws cohorts.
        axis: mesh axis that clients are dealt over.

    Returns:
        `(state, personal, data, frozen, hparams, key, slots, tables) -> (state,
        personal, metrics)`, pure.
    """

    def one_round(
        state: ServerState, personal: Tree, data, frozen, hparams, key, slots, tables
    ):
        drawn = draw_cohort(sampler, tables, key, state.round)
        rows = local_rows(slots, drawn.ids, data.num_clients, axis)
        cohort = Cohort(ids=drawn.ids, rows=rows, personal=personal)
        state, cohort, metrics = algorithm.round(
            state, cohort, data, frozen, hparams, key
        )
        # Counts of real messages replace the sampler's expectations.
        return state, cohort.personal, {**drawn.metrics, **metrics}

    return one_round


def many_rounds(one_round, capacity: int):
    """Up to `capacity` rounds in a loop.

    Returns:
        `(state, personal, data, frozen, hparams, key, slots, tables, count) -> (state,
        personal, metrics)`. `count` is traced, so that one program serves any number of
        rounds; `metrics` are `[capacity]` arrays with `count` real values first.
    """

    # Under `jit` it is traced once, though its shapes are read beforehand.
    traced = jax.jit(one_round, inline=True)

    def run(state, personal, data, frozen, hparams, key, slots, tables, count):
        fixed = (data, frozen, hparams, key, slots, tables)
        shapes = jax.eval_shape(traced, state, personal, *fixed)[2]
        log = jax.tree.map(lambda x: jnp.zeros(capacity, x.dtype), shapes)

        def step(i, carry):
            state, personal, log = carry
            state, personal, metrics = traced(state, personal, *fixed)
            log = jax.tree.map(lambda column, x: column.at[i].set(x), log, metrics)
            return state, personal, log

        return jax.lax.fori_loop(0, count, step, (state, personal, log))

    return run
