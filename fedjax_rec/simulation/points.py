"""Many runs of one shape as one program: seeds and scalar settings are arrays.

Points of a sweep that differ by seed and by scalars share data, split, partition and
the compiled program. A block of them is `[devices, seeds, settings]`: devices by
`shard_map` without communication, seeds and settings by `vmap`. What depends on the
seed alone, as cohorts and negatives do, is computed once for all settings beside it.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as Spec

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.keys import Purpose, derive
from fedjax_rec.core.rounds import ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.evaluation.selection import selection_value
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.simulation.evaluation import (
    by_bucket,
    make_evaluate,
    make_squares,
    take_users,
)
from fedjax_rec.simulation.lanes import Lanes
from fedjax_rec.simulation.population import (
    initial_personal,
    make_one_round,
    many_rounds,
)
from fedjax_rec.simulation.resident import Resident
from fedjax_rec.simulation.round import federated
from fedjax_rec.simulation.simulation import Event, Simulation

SEEDS, DEVICES = "seeds", "devices"
"""Axes of the `vmap` over seeds, and of the mesh."""


def _state_of(one: Any, round: Any) -> Any:
    """A state of axes or specs: its round is common to all points, as is the loop."""
    return ServerState(shared=one, optimizer=one, aggregator=one, round=round)


_STATE = _state_of(0, None)


def _at_no_round(state: ServerState) -> Any:
    return dataclasses.replace(state, round=None)  # pyright: ignore[reportArgumentType]


class Points:
    """The programs of a group of points, compiled once for all its blocks.

    Args:
        simulation: of any of the points: data, recipe, protocol.
        shape: `(devices, seeds, settings)` of a block.
        devices: that share it; by default the first of the process.
    """

    def __init__(
        self,
        simulation: Simulation,
        shape: tuple[int, int, int],
        devices: Sequence[Any] | None = None,
    ):
        self.simulation, self.shape = simulation, shape
        chosen = list(devices or jax.devices())[: shape[0]]
        if len(chosen) < shape[0]:
            raise ValueError(f"{shape[0]} devices asked for, there are {len(chosen)}")
        self.mesh = Mesh(np.array(chosen), (DEVICES,), axis_types=(AxisType.Auto,))
        # On a CPU a chunk should stay in cache, however many points share it.
        chunks = tuple(max(1, round(v / shape[2])) for v in simulation.chunks)
        recipe, n = simulation.recipe, simulation.data.num_clients
        self.algorithm = federated(
            recipe, chunks, lifted=simulation.lifted, batch_axis=SEEDS
        )
        self._init = jax.jit(
            lambda key: (self.algorithm.init(key), initial_personal(recipe, key, n))
        )
        self._rounds = self._make_rounds()
        evaluate = make_evaluate(
            recipe, simulation.protocol, simulation.user_chunk, simulation.chunks
        )

        def evaluate_one(state, personal, hparams, key, groups, data, frozen):
            own = derive(key, Purpose.EVALUATION)
            rest = (data, frozen, hparams, key, own)
            # On a device that holds all clients a client's row is its id.
            found = [
                evaluate(bucket, state, personal, targets, ids, ids, *rest)
                for bucket, (targets, ids) in groups.items()
            ]
            return {n: jnp.concatenate([x[n] for x in found]) for n in found[0]}

        def rmse_one(state, personal, hparams, key, *rest):
            del hparams, key
            return jnp.sqrt(squares(state, personal, *rest).mean())

        squares = make_squares(recipe)
        self._evaluate = self._some_points(evaluate_one)
        self._rmse = self._some_points(rmse_one)
        self._place()

    def events(
        self, block: Lanes, seeds: Sequence[int], settings: Sequence[dict[str, float]]
    ) -> Iterator[tuple[int, Event]]:
        """Runs a block to its end.

        Args:
            block: which points.
            seeds: `[P]`, of every point.
            settings: `[P]`, the scalars of every point by their names in the recipe.

        Yields:
            A point's index and an event of it, as `Simulation.events` tells them: the
            test is seen only where the point's validation improves.
        """
        sim, points = self.simulation, block.points
        state, personal, hparams, keys = self._start(points, seeds, settings)
        best = np.full(points.shape, -np.inf)
        spots = [tuple(spot) for spot in np.argwhere(block.real)]
        done, at_once = 0, 1
        while done < sim.rounds:
            until = min(sim.rounds, (done // sim.eval_every + 1) * sim.eval_every)
            count = min(at_once, until - done)
            started = time.perf_counter()
            state, personal, log = self._rounds(
                state, personal, (self._data, self._tables), self._frozen, hparams,
                keys, jnp.int32(count),
            )  # fmt: skip
            log = {name: np.asarray(column) for name, column in log.items()}
            seconds = time.perf_counter() - started
            share = seconds / count / len(spots)
            for i in range(count):
                done += 1
                for spot in spots:
                    metrics = {name: float(x[spot][i]) for name, x in log.items()}
                    event = {"event": "round", "round": done, "seconds": share}
                    yield int(points[spot]), {**event, **metrics}
            at_once = max(1, int(0.5 * count / seconds)) if done > 1 else at_once
            if done == until:
                some = (state, personal, hparams, keys)
                for spot, event in self._evaluation(done, some, spots, best):
                    yield int(points[spot]), event

    def _evaluation(self, done, some, spots, best):
        sim, started = self.simulation, time.perf_counter()
        events: dict[tuple, Event] = {
            spot: {"event": "evaluation", "round": done} for spot in spots
        }
        if "val" in sim.targets:
            for spot, values in self._ranked("val", some, spots).items():
                events[spot]["val"] = values
        if not sim.recipe.local.negatives:
            for part, rows in self._parts.items():
                found = self._of(self._rmse, some, spots, *rows, self._frozen)
                for spot, value in found.items():
                    events[spot][f"rmse_{part}"] = float(value)
        improved = []
        for spot in spots:
            value = selection_value(sim.protocol.selection, events[spot], sim.rounds)
            if value > best[spot]:  # the test is seen only where validation says
                best[spot] = value
                improved.append(spot)
        for spot, values in self._ranked("test", some, improved).items():
            events[spot]["test"] = values
        share = (time.perf_counter() - started) / len(spots)
        for spot in spots:
            yield spot, {**events[spot], "seconds": share}

    def _ranked(self, part: str, some, spots) -> dict[tuple, dict[str, float]]:
        if not spots:
            return {}
        sim = self.simulation
        targets, mask = self._targets[part]
        owners = None
        if sim.multi_user:
            owners = np.concatenate([np.asarray(ids) for _, ids in targets.values()])
        rest = (targets, self._data, self._frozen)
        found = self._of(self._evaluate, some, spots, *rest)
        return {
            spot: summarise(per_user, mask, owners) for spot, per_user in found.items()
        }

    def _of(self, program, some, spots, *rest) -> dict[tuple, Any]:
        """What a program finds for some points of a block, by their spot."""
        devices, rows, width = self.shape
        which = np.zeros((devices, rows * width), np.int32)
        count = np.zeros(devices, np.int32)
        place = {}
        for device, row, column in spots:
            place[device, row, column] = (device, count[device])
            which[device, count[device]] = row * width + column
            count[device] += 1
        found = jax.device_get(program(*some, *self._shard((which, count)), *rest))
        return {
            s: jax.tree.map(lambda x, at=at: x[at], found) for s, at in place.items()
        }

    def _start(self, points, seeds, settings):
        devices, rows, width = self.shape
        own = [
            [int(seeds[points[d, r, 0]]) for r in range(rows)] for d in range(devices)
        ]
        drawn = {s: self._init(jax.random.key(s)) for row in own for s in row}

        def spread(*leaves):  # one a lane to [devices, seeds, settings, ...]
            stacked = jnp.stack(leaves).reshape(devices, rows, 1, *leaves[0].shape)
            return jnp.tile(stacked, (1, 1, width) + (1,) * leaves[0].ndim)

        lanes = [drawn[seed] for row in own for seed in row]
        first = lanes[0][0]
        state = jax.tree.map(spread, *(x[0] for x in lanes))
        personal = jax.tree.map(spread, *(x[1] for x in lanes))
        dtype = jnp.result_type(*jax.tree.leaves(first.shared))
        hparams = {
            name: np.array(
                [[[settings[p][name] for p in r] for r in d] for d in points]
            )
            for name in self.simulation.recipe.hparams
        }
        hparams = jax.tree.map(lambda x: jnp.asarray(x, dtype), hparams)
        keys = jnp.stack([jax.random.key(s) for row in own for s in row])
        keys = keys.reshape(devices, rows)
        state, personal, hparams, keys = self._shard(
            (_at_no_round(state), personal, hparams, keys)
        )
        number = jax.device_put(jnp.int32(0), NamedSharding(self.mesh, Spec()))
        return dataclasses.replace(state, round=number), personal, hparams, keys

    def _shard(self, tree: Tree) -> Tree:
        return jax.device_put(tree, NamedSharding(self.mesh, Spec(DEVICES)))

    def _place(self) -> None:
        """Copies on every device of what all points share."""
        sim = self.simulation
        targets: dict[str, Any] = {}
        for part, found in sim.targets.items():
            users = np.asarray(found.user)
            parts = [(0, np.arange(len(users)))]
            if sim.protocol.evaluated != "aggregated":
                parts = by_bucket(users, sim.data, sim.client_of_user)
            some = {
                bucket: (
                    take_users(found, at),
                    sim.client_of_user[users[at]].astype(np.int32),
                )
                for bucket, at in parts
            }
            masks = [np.asarray(mine.mask) for mine, _ in some.values()]
            targets[part] = (some, np.concatenate(masks))
        rows = {}
        if not sim.recipe.local.negatives:
            dtype = sim.data.interactions.columns["rating"].dtype
            for part in ("train", "val", "test"):
                of = getattr(sim.split, part)
                if len(of):
                    columns = (sim.client_of_user[of.user], of.user, of.item)
                    columns = [column.astype(np.int32) for column in columns]
                    rows[part] = (*columns, of.rating.astype(dtype))
        everywhere = NamedSharding(self.mesh, Spec())
        self._targets = {
            part: (jax.device_put(some, everywhere), mask)
            for part, (some, mask) in targets.items()
        }
        self._data, self._frozen, self._parts, self._tables = jax.device_put(
            (_resident(sim), sim.frozen, rows, sim.sampler.tables), everywhere
        )

    def _make_rounds(self) -> Callable:
        """`(state, personal, (data, tables), frozen, hparams, keys, count)`."""
        sim = self.simulation
        one = make_one_round(self.algorithm, sim.sampler)
        many: Callable = many_rounds(one, sim.eval_every)

        def rounds(state, personal, fixed, frozen, hparams, key, count):
            data, tables = fixed
            # No slots: clients' rows are their ids.
            rest = (frozen, hparams, key, None, tables, count)
            return many(state, personal, data, *rest)

        out = (_STATE, 0, 0)
        settings = jax.vmap(rounds, (_STATE, 0, None, None, 0, None, None), out)
        seeds = jax.vmap(
            settings, (_STATE, 0, None, None, 0, 0, None), out, axis_name=SEEDS
        )

        def local(state, personal, data, frozen, hparams, keys, count):
            own, personal, hparams, keys = _drop(
                (_at_no_round(state), personal, hparams, keys)
            )
            state = dataclasses.replace(own, round=state.round)
            state, personal, log = seeds(
                state, personal, data, frozen, hparams, keys, count
            )
            own, personal, log = _add((_at_no_round(state), personal, log))
            return dataclasses.replace(own, round=state.round), personal, log

        split = Spec(DEVICES)
        state = _state_of(split, Spec())
        return self._program(
            local,
            (state, split, Spec(), Spec(), split, split, Spec()),
            (state, split, split),
            donate=(0, 1),
        )

    def _some_points(self, one: Callable) -> Callable:
        """Calls `one` for the points `which[:count]` of each device, in turn.

        Args:
            one: `(state, personal, hparams, key, *rest) -> tree`, of a single point.

        Returns:
            `(state, personal, hparams, keys, which [devices, Q], count [devices],
            *rest) -> tree [devices, Q, ...]`.
        """
        width = self.shape[2]

        def local(state, personal, hparams, keys, which, count, *rest):
            own, personal, hparams, keys, which, count = _drop(
                (_at_no_round(state), personal, hparams, keys, which, count)
            )

            def at(i):
                row, column = which[i] // width, which[i] % width
                point, mine, scalars = jax.tree.map(
                    lambda x: x[row, column], (own, personal, hparams)
                )
                point = dataclasses.replace(point, round=state.round)
                return one(point, mine, scalars, keys[row], *rest)

            shapes = jax.eval_shape(at, 0)
            found = jax.tree.map(
                lambda x: jnp.zeros((which.shape[0], *x.shape), x.dtype), shapes
            )

            def step(i, found):
                return jax.tree.map(lambda all_, x: all_.at[i].set(x), found, at(i))

            return _add(jax.lax.fori_loop(0, count, step, found))

        split = Spec(DEVICES)
        state = _state_of(split, Spec())

        def program(state_, personal, hparams, keys, which, count, *rest):
            return self._mapped(
                local,
                (state, *[split] * 5, *[Spec()] * len(rest)),
                split,
            )(state_, personal, hparams, keys, which, count, *rest)

        return jax.jit(program)

    def _program(self, local, ins, outs, donate=()) -> Callable:
        return jax.jit(self._mapped(local, ins, outs), donate_argnums=donate)

    def _mapped(self, local: Callable, ins, outs) -> Callable:
        if self.shape[0] == 1:
            return local
        # No point looks at another device's, and no gradient is taken of what all
        # share: there is nothing for the check of varying values to guard.
        return jax.shard_map(
            local, mesh=self.mesh, in_specs=ins, out_specs=outs, check_vma=False
        )


def _drop(tree: Tree) -> Tree:
    """Without the axis of devices, of which each has one slice."""
    return jax.tree.map(lambda x: x[0], tree)


def _add(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[None], tree)


def _resident(simulation: Simulation) -> ClientData:
    """All clients' data, which lie on one device."""
    population = simulation.population
    if not isinstance(population, Resident) or simulation.mesh.size > 1:
        raise ValueError(
            "points run side by side where one device holds a run's whole population: "
            "mesh.devices=1 and population.store='device'"
        )
    return population.data


def point_bytes(simulation: Simulation) -> int:
    """About how much memory one more point of a sweep takes, in bytes.

    Server state, personal state (old and new), aggregate and pseudo-gradient, and what
    a chunk of clients holds for the backward pass of one step.
    """
    from fedjax_rec.simulation.round import train_client

    recipe, data = simulation.recipe, _resident(simulation)

    def size(tree: Tree) -> int:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))

    shared, personal = size(simulation.state.shared), size(simulation.personal)
    state = simulation.state
    optimizer = size((state.optimizer, state.aggregator))
    chunk = 0
    for bucket, clients in enumerate(simulation.chunks):
        own = jax.tree.map(lambda x: x[0], simulation.personal)
        result = jax.eval_shape(
            train_client(recipe, data, bucket),
            simulation.state.shared, own, simulation.frozen, recipe.hparams,
            jnp.int32(0), simulation.key,
        )  # fmt: skip
        # Rows at the start, now, their gradients and those of the batch.
        chunk = max(chunk, 6 * clients * size(result))
    evaluated = 4 * simulation.user_chunk * data.num_items * 4
    return 2 * optimizer + 4 * shared + 2 * personal + max(chunk, evaluated)
