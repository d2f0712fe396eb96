"""A population on the host: each round brings its cohort to the devices.

The next cohort's data are gathered and copied while a round computes; personal state
follows once it is known that this round does not write to it. So device memory and a
round's time depend on the cohort only, and the host's arrays may be memory maps.
"""

import concurrent.futures
import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.rounds import Cohort, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.drawn_rounds import draw_cohort
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.personal import initial_on_host, start_of
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.simulation.resident import Block, Setup
from fedjax_rec.simulation.round import federated

_BLOCK = 8_192
"""Clients of one block of an evaluation."""


class Ready(NamedTuple):
    """A cohort on the devices, in slots dealt over the shares.

    Attributes:
        ids: `[n]` client ids; `N` is padding.
        placed: the ids on the devices.
        rows: `[n]` each slot's row on its device.
        data: the slots' client data.
        personal: the slots' personal state; `None` while an earlier round writes to it.
    """

    ids: np.ndarray
    placed: Array
    rows: Array
    data: ClientData
    personal: Tree | None


class Hosted:
    """Personal state and clients' data in the memory of the host, or on its disk.

    Attributes:
        still: whether clients stay on their device.
        waited: seconds that the devices waited for the host.
        personal: personal parameters `[N, ...]`, NumPy arrays.

    Args:
        setup: the population and the system; the mesh has devices of one process.
        folder: folder of the memory maps of personal state; `None` keeps it in memory.

    Raises:
        ValueError: the mesh spans several processes.
    """

    still = False

    def __init__(self, setup: Setup, folder: Path | None = None):
        data, mesh, key, programs = setup.data, setup.mesh, setup.key, setup.programs
        if jax.process_count() > 1:
            raise ValueError(
                "a population on the host works with one process: over several, each "
                "process's devices hold their own clients (store.location='device')"
            )
        self.mesh, self.data, self.waited = mesh, data, 0.0
        self._placed_key = meshes.place(mesh, key)
        self._buckets = np.asarray(data.buckets)
        self._pool = meshes.place(mesh, data.pool)
        self._shares = meshes.shares(mesh)
        self._finished = concurrent.futures.ThreadPoolExecutor(1)
        self._lengths: list[int] = []
        self.personal = initial_on_host(
            setup.recipe, key, data.num_clients, folder, programs.get(start_of)
        )
        draw = programs.get(_make_draw, setup.capacity)
        self._cohort_of = _windows(draw, setup.sampler.tables, setup.capacity, key)
        self._round = programs.get(_make_round, setup.chunks, setup.lifted, mesh)

    def advance(
        self, state: ServerState, frozen: Tree, hparams: Tree, count: int
    ) -> tuple[ServerState, dict[str, np.ndarray]]:
        """Runs `count` rounds, each while the next one's cohort is fetched."""
        done = int(state.round)
        drawn = [self._cohort_of(done + i) for i in range(count)]
        ready = self._fetch(drawn[0], None)
        log, idle_since, unwritten = [], None, ()
        for i in range(count):
            personal = ready.personal
            if personal is None:
                self._write(*unwritten)
                unwritten, personal = (), self._gather(ready.ids)
            if idle_since is not None and idle_since.done():
                self.waited += time.perf_counter() - idle_since.result()
            inputs = (personal, ready.data, ready.placed, ready.rows)
            state, after, metrics = self._round(
                state, *inputs, frozen, hparams, self._placed_key
            )
            log.append(metrics)
            idle_since = self._finished.submit(_when_ready, after)
            if unwritten:
                self._write(*unwritten)
            unwritten = (ready.ids, after)
            if i + 1 < count:
                ready = self._fetch(drawn[i + 1], ready.ids)
        self._write(*unwritten)
        log = [
            {**cohort.metrics, **metrics}
            for cohort, metrics in zip(drawn, jax.device_get(log), strict=True)
        ]
        return state, jax.tree.map(lambda *xs: np.stack(xs), *log)

    @contextlib.contextmanager
    def holding(self, groups: dict[str, Tree]) -> Iterator[None]:
        """Replaces personal groups `[N, ...]` for the block."""
        before = self.personal
        self.personal = {**before, **groups}
        try:
            yield
        finally:
            self.personal = before

    def _fetch(self, drawn: Any, busy: np.ndarray | None) -> Ready:
        """Brings a cohort to the devices; the state of `busy` clients is in use."""
        n = self.data.num_clients
        ids = drawn.ids[drawn.ids < n]
        # Absent slots are padding; every cohort has the same number.
        per_share = -(-len(drawn.ids) // self._shares)
        dealt = meshes.deal(self._buckets[ids], self._shares)
        groups = [ids[positions] for positions in dealt]
        slots = meshes.in_slots(groups, per_share, n)
        late = busy is not None and np.isin(ids, busy).any()
        return Ready(
            ids=slots,
            placed=meshes.place(self.mesh, slots, DEALT),
            rows=self._rows(per_share),
            data=self._place(
                groups, per_share, self._cohort_lengths(groups, per_share)
            ),
            personal=None if late else self._gather(slots),
        )

    def _place(self, groups, per_share: int, lengths) -> ClientData:
        return meshes.place_clients(
            self.mesh,
            self.data,
            groups,
            clients=per_share,
            lengths=lengths,
            pool=self._pool,
        )

    def _cohort_lengths(self, groups: list[np.ndarray], per_share: int) -> list[int]:
        """Columns long enough for this cohort, and for nearly all later ones.

        They start six deviations above the mean of a random cohort, and double when one
        does not fit: each length needs a program, and there is seldom a second.
        """
        if not self._lengths:
            sizes = (self.data.interactions.size, self.data.exclude.size)
            self._lengths = [
                int(per_share * x.mean() + 6 * x.std() * per_share**0.5) + int(x.max())
                for x in map(np.asarray, sizes)
            ]
        for column, need in enumerate(meshes.column_lengths(self.data, groups)):
            while need > self._lengths[column]:
                self._lengths[column] *= 2
        return list(self._lengths)

    def _rows(self, per_share: int) -> Array:
        rows = np.tile(np.arange(per_share, dtype=np.int32), self._shares)
        return meshes.place(self.mesh, rows, DEALT)

    def _gather(self, slots: np.ndarray) -> Tree:
        clients = np.minimum(slots, self.data.num_clients - 1)
        personal = jax.tree.map(lambda x: x[clients], self.personal)
        return meshes.place(self.mesh, personal, DEALT)

    def _write(self, slots: np.ndarray, personal: Tree) -> None:
        real = slots < self.data.num_clients

        def write(stored: np.ndarray, new: Array) -> None:
            stored[slots[real]] = np.asarray(new)[real]

        jax.tree.map(write, self.personal, personal)

    def blocks(self, clients: np.ndarray) -> Iterator[Block]:
        """`clients` `[E]`, some thousands at a time."""
        n, total = self.data.num_clients, len(clients)
        size = min(_BLOCK, -(-total // self._shares) * self._shares)
        order = np.full(-(-total // size) * size, -1)
        order[:total] = np.arange(total)
        ids = np.where(order >= 0, clients[order], n).astype(np.int32)
        ids, order = ids.reshape(-1, size), order.reshape(-1, size)
        # Columns of one length for all blocks, for one program.
        lengths = meshes.column_lengths(self.data, [b[b < n] for b in ids])
        for block, positions in zip(ids, order, strict=True):
            per_share = size // self._shares
            yield Block(
                positions,
                self._rows(per_share),
                self._gather(block),
                self._place(np.split(block, self._shares), per_share, lengths),
            )


def _make_draw(programs: Programs, capacity: int):
    """`(tables, key, first) -> cohorts` of `capacity` rounds, jitted."""

    @jax.jit
    def draw(tables: Tree, key: Array, first: Array):
        return jax.lax.map(
            partial(draw_cohort, programs.sample, tables, key),
            first + jnp.arange(capacity, dtype=jnp.int32),
        )

    return draw


def _windows(draw: Callable, tables: Tree, capacity: int, key: Array):
    """`round -> cohort`, drawn on the host, `capacity` rounds at once."""
    # Tables as long as the population stay in the host's memory.
    host = _host()
    tables, key = jax.device_put((tables, key), host)

    @functools.lru_cache(2)  # a call of `advance` may begin in one and end in the next
    def window(number: int) -> Any:
        first = jax.device_put(np.int32(number * capacity), host)
        return jax.device_get(draw(tables, key, first))

    def cohort_of(number: int) -> Any:
        index, place = divmod(number, capacity)
        return jax.tree.map(lambda x: x[place], window(index))

    return cohort_of


def _make_round(programs: Programs, chunks: tuple[int, ...], lifted: bool, mesh: Mesh):
    """A round of a cohort that is copied to the devices, jitted."""
    axis = meshes.client_axis(mesh)
    algorithm = federated(programs.recipe, chunks, lifted=lifted, devices=axis)

    def one_round(state, personal, data, ids, rows, frozen, hparams, key):
        cohort = Cohort(
            ids=ids,
            rows=rows,
            personal=personal,
            first=0 if axis is None else jax.lax.axis_index(axis) * len(ids),
            size=len(ids) * meshes.shares(mesh),
        )
        state, cohort, metrics = algorithm.round(
            state, cohort, data, frozen, hparams, key
        )
        return state, cohort.personal, metrics

    out = (EVERYWHERE, DEALT, EVERYWHERE)
    specs = (EVERYWHERE, *(DEALT,) * 4)
    return meshes.program(one_round, mesh, specs, out, donate=(0, 1))


def _host() -> Any:
    """A CPU of this process; the first device if JAX may use no CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _when_ready(tree: Tree) -> float:
    jax.block_until_ready(tree)
    return time.perf_counter()
