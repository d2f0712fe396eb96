"""A population that lies on the host: each round brings its cohort to the devices.

The next cohort's data are gathered and copied while this round computes; personal state
follows as soon as it is known that this round does not write to it. Device memory and a
round's time so depend on the cohort, and the arrays may be memory maps.
"""

import concurrent.futures
import dataclasses
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Cohort, FederatedAlgorithm, Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.pack import pack
from fedjax_rec.profiling.stages import SAMPLING, staged
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.population import initial_personal
from fedjax_rec.simulation.resident import Block

_INITIAL_CHUNK = 65_536
"""Clients whose personal parameters are drawn at once."""
_BLOCK = 8_192
"""Clients of one block of an evaluation."""


class Ready(NamedTuple):
    """A cohort on the devices, but perhaps for its personal state.

    Attributes:
        ids: `[n]` client ids in slots dealt over the shares; `N` is padding.
        placed: the same on the devices.
        rows: `[n]` each slot's row on its device.
        data: of the slots.
        personal: of the slots, or `None` where an earlier round still writes to it.
    """

    ids: np.ndarray
    placed: Array
    rows: Array
    data: ClientData
    personal: Tree | None


class Hosted:
    """Personal state and clients' data in the memory of the host, or on its disk.

    Attributes:
        still: clients stay where they are.
        waited: seconds in which the devices had nothing to do.

    Args:
        recipe: the system.
        algorithm: its `round`, for the axis `clients` unless the mesh has one device.
        sampler: who takes part.
        data: of all clients, as NumPy arrays or memory maps.
        mesh: of the devices; of one process.
        key: the experiment's root key.
        capacity: rounds whose cohorts are drawn at once.
        folder: where personal state is a memory map; `None` keeps it in memory.

    Raises:
        ValueError: the mesh spans several processes.
    """

    still = False

    def __init__(
        self,
        recipe: Recipe,
        algorithm: FederatedAlgorithm,
        sampler: Sampler,
        data: ClientData,
        mesh: Mesh,
        key: Array,
        capacity: int,
        folder: Path | None = None,
    ):
        if jax.process_count() > 1:
            raise ValueError(
                "a population on the host works with one process: over several, each "
                "process's devices hold their own clients (population.store='device')"
            )
        self.mesh, self.data, self.waited = mesh, data, 0.0
        self._key, self._placed_key = key, meshes.place(mesh, key)
        self._size = np.asarray(data.interactions.size)
        self._exclude_size = np.asarray(data.exclude.size)
        self._buckets = np.asarray(data.buckets)
        self._axis = None if mesh.size == 1 else meshes.CLIENTS
        self._pool = meshes.place(mesh, data.pool)
        self._finished = concurrent.futures.ThreadPoolExecutor(1)
        self._lengths = [0, 0]
        self.personal = self._initial(recipe, key, folder)
        self._draw = self._make_draw(sampler, capacity)
        self._round = self._make_round(algorithm)

    def _initial(self, recipe: Recipe, key: Array, folder: Path | None) -> Tree:
        count = self.data.num_clients
        shapes = jax.eval_shape(lambda: initial_personal(recipe, key, 1))
        names = iter(range(len(jax.tree.leaves(shapes))))

        def empty(leaf):
            shape = (count, *leaf.shape[1:])
            if folder is None:
                return np.empty(shape, leaf.dtype)
            path = folder / f"personal-{next(names)}.npy"
            return np.lib.format.open_memmap(path, "w+", leaf.dtype, shape)

        personal = jax.tree.map(empty, shapes)
        for first in range(0, count, _INITIAL_CHUNK):
            # Of one size, for one program; the last goes back to fill it.
            first = max(0, min(first, count - _INITIAL_CHUNK))
            ids = jnp.arange(first, min(first + _INITIAL_CHUNK, count))
            part = initial_personal(recipe, key, ids)
            at = slice(first, first + len(ids))
            jax.tree.map(lambda x, y, at=at: x.__setitem__(at, y), personal, part)
        return personal

    def _make_draw(self, sampler: Sampler, capacity: int):
        # Tables as long as the population stay in the host's memory, where it draws.
        host = _host()
        tables = jax.device_put(sampler.tables, host)

        @jax.jit
        def draw(tables: Tree, key: Array, first: Array):
            def one(number: Array):
                cohort_key = keys.derive(key, keys.Purpose.COHORT, number)
                sample = staged(SAMPLING, sampler.sample)
                return sample(tables, cohort_key, number)

            return jax.lax.map(one, first + jnp.arange(capacity, dtype=jnp.int32))

        def drawn(key: Array, first: int) -> Any:
            inputs = jax.device_put((key, np.int32(first)), host)
            return jax.device_get(draw(tables, *inputs))

        return drawn

    def _make_round(self, algorithm: FederatedAlgorithm):
        def one(state, personal, data, ids, rows, frozen, hparams, key):
            first, shares = 0, self._shares()
            if self._axis is not None:
                first = jax.lax.axis_index(self._axis) * len(ids)
            cohort = Cohort(
                ids=ids,
                rows=rows,
                personal=personal,
                first=first,
                size=len(ids) * shares,
            )
            state, cohort, metrics = algorithm.round(
                state, cohort, data, frozen, hparams, key
            )
            return state, cohort.personal, metrics

        @partial(jax.jit, donate_argnums=(0, 1))
        def cohort_round(state, personal, data, ids, rows, *rest):
            inputs = (state, personal, data, ids, rows, *rest)
            if self._axis is None:
                return one(*inputs)
            specs = (EVERYWHERE, DEALT, meshes.client_specs(data), DEALT, DEALT)
            specs += (EVERYWHERE,) * len(rest)
            out = (EVERYWHERE, DEALT, EVERYWHERE)
            return meshes.run_dealt(one, self.mesh, specs, out)(*inputs)

        return cohort_round

    def advance(
        self, state: ServerState, frozen: Tree, hparams: Tree, count: int
    ) -> tuple[ServerState, dict[str, np.ndarray]]:
        """Runs `count` rounds, each while the next one's cohort is fetched."""
        first = int(state.round)
        cohorts = self._draw(self._key, first)
        ready = self._fetch(jax.tree.map(lambda x: x[0], cohorts), None)
        told, idle_since, unwritten = [], None, None
        for i in range(count):
            personal = ready.personal
            if personal is None and unwritten is not None:
                self._write(*unwritten)
                unwritten = None
            if personal is None:
                personal = self._gather(ready.ids)
            if idle_since is not None and idle_since.done():
                self.waited += time.perf_counter() - idle_since.result()
            state, after, metrics = self._round(
                state,
                personal,
                ready.data,
                ready.placed,
                ready.rows,
                frozen,
                hparams,
                self._placed_key,
            )
            told.append(metrics)
            idle_since = self._finished.submit(_when_ready, after)
            if unwritten is not None:
                self._write(*unwritten)
            unwritten = (ready.ids, after)
            if i + 1 < count:
                drawn = jax.tree.map(lambda x, i=i: x[i + 1], cohorts)
                ready = self._fetch(drawn, ready.ids)
        if unwritten is not None:
            self._write(*unwritten)
        told = jax.device_get(told)
        log = {name: np.stack([t[name] for t in told]) for name in told[0]}
        return state, {**{k: x[:count] for k, x in cohorts.metrics.items()}, **log}

    def _fetch(self, drawn: Any, busy: np.ndarray | None) -> Ready:
        """Brings a cohort to the devices; `busy` clients' state is being written."""
        ids = drawn.ids[drawn.ids < self.data.num_clients]
        # Absent slots are padding; every cohort has the same number.
        per_share = -(-len(drawn.ids) // meshes.shares(self.mesh))
        slots, data = self._deal(ids, per_share, self._cohort_lengths(ids, per_share))
        late = busy is not None and np.isin(ids, busy).any()
        return Ready(
            ids=slots,
            placed=meshes.place(self.mesh, slots, DEALT),
            rows=self._rows(per_share),
            data=data,
            personal=None if late else self._gather(slots),
        )

    def _deal(
        self, ids: np.ndarray, per_share: int, lengths: tuple[int, int]
    ) -> tuple[np.ndarray, ClientData]:
        groups = [
            ids[group] for group in meshes.deal(self._buckets[ids], self._shares())
        ]
        n = self.data.num_clients
        slots = np.concatenate(
            [np.pad(g, (0, per_share - len(g)), constant_values=n) for g in groups]
        ).astype(np.int32)
        parts = pack(
            dataclasses.replace(self.data, pool=None),
            groups,
            clients=per_share,
            interactions=lengths[0],
            exclusions=lengths[1],
        )
        placed = meshes.place_dealt(self.mesh, dict(enumerate(parts)))
        return slots, dataclasses.replace(placed, pool=self._pool)

    def _shares(self) -> int:
        return meshes.shares(self.mesh)

    def _cohort_lengths(self, ids: np.ndarray, per_share: int) -> tuple[int, int]:
        """Columns long enough for this cohort, and for nearly all that follow.

        They start where six deviations of a random cohort fit, and double when one
        does not: a program for each length, and seldom a second.
        """
        if not self._lengths[0]:
            self._lengths = [
                int(per_share * x.mean() + 6 * x.std() * per_share**0.5) + int(x.max())
                for x in (self._size, self._exclude_size)
            ]
        groups = meshes.deal(self._buckets[ids], self._shares())
        for axis, sizes in enumerate((self._size, self._exclude_size)):
            need = max(int(sizes[ids[group]].sum()) for group in groups) + 1
            while need > self._lengths[axis]:
                self._lengths[axis] *= 2
        return self._lengths[0], self._lengths[1]

    def _rows(self, per_share: int) -> Array:
        rows = np.tile(np.arange(per_share, dtype=np.int32), self._shares())
        return meshes.place(self.mesh, rows, DEALT)

    def _gather(self, slots: np.ndarray) -> Tree:
        at = np.minimum(slots, self.data.num_clients - 1)
        personal = jax.tree.map(lambda x: x[at], self.personal)
        return meshes.place(self.mesh, personal, DEALT)

    def _write(self, slots: np.ndarray, personal: Tree) -> None:
        real = slots < self.data.num_clients

        def write(ours: np.ndarray, theirs: Array) -> None:
            ours[slots[real]] = np.asarray(theirs)[real]

        jax.tree.map(write, self.personal, personal)

    def blocks(self, clients: np.ndarray) -> Iterator[Block]:
        """`clients` `[E]`, some thousands at a time."""
        count = self._shares()
        block = min(_BLOCK, -(-len(clients) // count) * count)
        lengths = [1, 1]
        for first in range(0, len(clients), block):
            some = clients[first : first + block]
            some = some[some < self.data.num_clients]
            for axis, sizes in enumerate((self._size, self._exclude_size)):
                lengths[axis] = max(lengths[axis], int(sizes[some].sum()) + 1)
        for first in range(0, len(clients), block):
            some = clients[first : first + block]
            per_share = block // count
            order = np.full(block, -1)
            order[: len(some)] = first + np.arange(len(some))
            ids = np.where(
                order >= 0, clients[np.maximum(order, 0)], self.data.num_clients
            ).astype(np.int32)
            parts = pack(
                dataclasses.replace(self.data, pool=None),
                np.split(ids, count),
                clients=per_share,
                interactions=lengths[0],
                exclusions=lengths[1],
            )
            placed: Any = meshes.place_dealt(self.mesh, dict(enumerate(parts)))
            yield Block(
                order,
                self._rows(per_share),
                self._gather(ids),
                dataclasses.replace(placed, pool=self._pool),
            )


def _host() -> Any:
    """A CPU of this process; where JAX was told to use none, its first device."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


def _when_ready(tree: Tree) -> float:
    jax.block_until_ready(tree)
    return time.perf_counter()
