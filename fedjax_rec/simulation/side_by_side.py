"""Several experiments of one shape as one program: seeds and scalars are arrays.

Experiments that differ by seed and by scalars share data, split, partition and the
compiled programs.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.keys import Purpose, derive
from fedjax_rec.data.clients import ClientData
from fedjax_rec.evaluation.per_user import PerUser, in_order
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.simulation import cells
from fedjax_rec.simulation.dealt_users import take_users
from fedjax_rec.simulation.drawn_rounds import make_one_round, many_rounds
from fedjax_rec.simulation.evaluation import ratings_of, user_groups, user_ids
from fedjax_rec.simulation.loop import Event, Lanes, Snapshot, run_lanes
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.resident import Resident
from fedjax_rec.simulation.round import federated
from fedjax_rec.simulation.scoring import make_evaluate, make_squares
from fedjax_rec.simulation.simulation import Simulation

Arrays = Callable[[int], Tree]
"""`position -> Snapshot.arrays` of an experiment."""


class SideBySide:
    """The programs of a group of experiments, compiled once for all layouts.

    Attributes:
        users: metrics of each test user at the selected round, by an experiment's
            position.

    Args:
        simulation: one of the experiments, with their data, recipe and protocol.
        shape: `(devices, seeds, settings)` of a layout.
        devices: devices that share a layout; by default the first ones.
    """

    def __init__(
        self,
        simulation: Simulation,
        shape: tuple[int, int, int],
        devices: Sequence[Any] | None = None,
    ):
        self.simulation, self.shape = simulation, shape
        self.users: dict[int, PerUser] = {}
        chosen = list(devices or jax.devices())[: shape[0]]
        if len(chosen) < shape[0]:
            raise ValueError(f"{shape[0]} devices asked for, there are {len(chosen)}")
        axis = (cells.DEVICES,)
        self.mesh = Mesh(np.array(chosen), axis, axis_types=(AxisType.Auto,))
        # On a CPU a chunk should stay in cache, however many experiments share it.
        chunks = tuple(max(1, round(v / shape[2])) for v in simulation.chunks)
        recipe, n = simulation.recipe, simulation.data.num_clients
        algorithm = federated(
            recipe, chunks, lifted=simulation.lifted, batch_axis=cells.SEEDS
        )
        self._init = jax.jit(
            lambda key: (algorithm.init(key), initial_personal(recipe, key, n))
        )
        one_round = make_one_round(algorithm, simulation.sampler.sample)
        self._rounds = cells.make_rounds(
            many_rounds(one_round, simulation.eval_every), self.mesh
        )
        evaluate, rmse = _evaluation_of(simulation), _rmse_of(simulation)
        self._evaluate = cells.make_each(evaluate, shape[2], self.mesh)
        self._rmse = cells.make_each(rmse, shape[2], self.mesh)
        self._data, self._frozen, self._tables = self._place(
            (resident_data(simulation), simulation.frozen, simulation.sampler.tables)
        )
        self._targets = {part: self._place_targets(part) for part in simulation.targets}
        self._rated = {part: self._place_ratings(part) for part in simulation.rated}

    def events(
        self,
        layout: cells.Layout,
        seeds: Sequence[int],
        settings: Sequence[Mapping[str, float]],
        starts: Mapping[int, Snapshot] | None = None,
        diverged: Collection[int] = (),
    ) -> Iterator[tuple[int, Event, Arrays | None]]:
        """Runs a layout to its end.

        Args:
            layout: the experiments.
            seeds: `[P]` seed of every experiment.
            settings: `[P]` scalars of every experiment, by their names in the recipe.
            starts: snapshots of the layout's experiments, all after the same round, to
                go on from.
            diverged: positions of experiments that diverged before.

        Yields:
            The position of an experiment and an event of it, as `Simulation.events`;
            and if the layout is at rest after it, `position ->
            Snapshot.arrays`, valid until the next event.
        """
        state, personal, *constants = self._start(layout.index, seeds, settings)
        lane_cells = [tuple(cell) for cell in np.argwhere(layout.real)]
        positions = [int(layout.index[cell]) for cell in lane_cells]
        best, done = [-np.inf] * len(lane_cells), 0
        if starts:
            state, personal, done = self._restored(layout.index, starts)
            best = [starts[i].progress["best"] for i in positions]

        def advance(count: int) -> list[dict[str, np.ndarray]]:
            nonlocal state, personal
            fixed = ((self._data, self._tables), self._frozen, *constants)
            state, personal, log = self._rounds(
                state, personal, *fixed, jnp.int32(count)
            )
            log = {name: np.asarray(column) for name, column in log.items()}
            return [{name: x[cell] for name, x in log.items()} for cell in lane_cells]

        def each(program: Callable, lanes: Sequence[int], *inputs) -> list[Any]:
            """The results of a program for some lanes."""
            which, count, places = self._queues([lane_cells[lane] for lane in lanes])
            results = jax.device_get(
                program(state, personal, *constants, which, count, *inputs)
            )
            return [jax.tree.map(lambda x, i=i: x[i], results) for i in places]

        def evaluate(part: str, lanes: Sequence[int]) -> list[dict[str, float]]:
            targets, mask, owners, order = self._targets[part]
            results = each(self._evaluate, lanes, targets, self._data, self._frozen)
            if part == "test":
                ids, round_ = user_ids(self.simulation, part), int(state.round)
                for lane, per_user in zip(lanes, results, strict=True):
                    position = int(layout.index[lane_cells[lane]])
                    self.users[position] = in_order(order, per_user, ids, round_)
            return [summarise(per_user, mask, owners) for per_user in results]

        def rmse(part: str, lanes: Sequence[int]) -> list[float]:
            ratings = self._rated[part]
            return [float(x) for x in each(self._rmse, lanes, ratings, self._frozen)]

        def arrays_of(position: int) -> Tree:
            cell = lane_cells[positions.index(position)]
            states, own = jax.tree.map(
                lambda x: x[cell], (cells.without_round(state), personal)
            )
            server = dataclasses.replace(states, round=state.round)
            return {"server": server, "personal": own}

        lanes, sim = Lanes(advance, evaluate, rmse), self.simulation
        lost = [lane for lane, i in enumerate(positions) if i in diverged]
        for lane, event, rests in run_lanes(sim, lanes, best, done=done, lost=lost):
            yield positions[lane], event, arrays_of if rests else None

    def _start(self, index: np.ndarray, seeds, settings):
        """State, personal state, scalars and keys before the first round."""
        devices, rows, width = self.shape
        row_seeds = [int(seeds[i]) for i in index[:, :, 0].reshape(-1)]
        initial = {seed: self._init(jax.random.key(seed)) for seed in set(row_seeds)}

        def spread(*leaves):  # one per row, to [devices, seeds, settings, ...]
            stacked = jnp.stack(leaves).reshape(devices, rows, 1, *leaves[0].shape)
            return jnp.tile(stacked, (1, 1, width) + (1,) * leaves[0].ndim)

        state, personal = jax.tree.map(spread, *(initial[seed] for seed in row_seeds))
        dtype = jnp.result_type(*jax.tree.leaves(state.shared))
        hparams = {
            name: jnp.asarray([settings[i][name] for i in index.reshape(-1)], dtype)
            for name in self.simulation.recipe.hparams
        }
        hparams = jax.tree.map(lambda x: x.reshape(index.shape), hparams)
        keys = jnp.stack([jax.random.key(seed) for seed in row_seeds])
        keys, states = keys.reshape(devices, rows), cells.without_round(state)
        state, personal, hparams, keys = self._place(
            (states, personal, hparams, keys), cells.SPLIT
        )
        number = self._place(jnp.int32(0))
        return dataclasses.replace(state, round=number), personal, hparams, keys

    def _restored(self, index: np.ndarray, starts: Mapping[int, Snapshot]):
        """State and personal state of the snapshots, and their round."""

        def stack(*leaves):
            stacked = np.stack([np.asarray(leaf) for leaf in leaves])
            return stacked.reshape(*index.shape, *stacked.shape[1:])

        snapshots = [starts[int(i)] for i in index.reshape(-1)]
        states = [cells.without_round(s.arrays["server"]) for s in snapshots]
        personal = [s.arrays["personal"] for s in snapshots]
        placed = self._place(
            (jax.tree.map(stack, *states), jax.tree.map(stack, *personal)), cells.SPLIT
        )
        done = snapshots[0].progress["round"]
        number = self._place(jnp.int32(done))
        return dataclasses.replace(placed[0], round=number), placed[1], done

    def _queues(self, visited: Sequence[tuple[int, int, int]]):
        """Each device's cells, to be visited in turn.

        Returns:
            `(which [devices, Q], count [devices], places)`: cells as positions in
            `[seeds, settings]`, their number, and each cell's place in `which`.
        """
        devices, rows, width = self.shape
        which = np.zeros((devices, rows * width), np.int32)
        count = np.zeros(devices, np.int32)
        places = []
        for device, row, column in visited:
            places.append((device, int(count[device])))
            which[device, count[device]] = row * width + column
            count[device] += 1
        which, count = self._place((which, count), cells.SPLIT)
        return which, count, places

    def _place(self, tree: Tree, spec: PartitionSpec = cells.EVERYWHERE) -> Tree:
        return jax.device_put(tree, NamedSharding(self.mesh, spec))

    def _place_targets(self, part: str):
        """`({bucket: (targets, client ids)}, mask, owners, order)` of the users."""
        sim, targets = self.simulation, self.simulation.targets[part]
        groups: dict[int, Any] = {}
        masks, owners, order = [], [], []
        for _, bucket, positions in user_groups(sim, part):
            order.append(positions)
            users = take_users(targets, positions)
            clients = sim.client_of_user[np.asarray(users.user)].astype(np.int32)
            groups[bucket] = self._place((users, clients))
            masks.append(np.asarray(users.mask))
            owners.append(clients)
        owner = np.concatenate(owners) if sim.multi_user else None
        mask: Any = np.concatenate(masks)
        return groups, mask, owner, np.concatenate(order)

    def _place_ratings(self, part: str):
        """Client ids, users, items and ratings of a part."""
        sim = self.simulation
        user, item, rating = ratings_of(sim, part, slice(None))
        ids = [x.astype(np.int32) for x in (sim.client_of_user[user], user, item)]
        return self._place((*ids, rating))


def resident_data(simulation: Simulation) -> ClientData:
    """All clients' data, on one device.

    Raises:
        ValueError: they lie on several devices, or on the host; or some evaluated users
            have no training data.
    """
    if simulation.newcomers is not None:
        raise ValueError(
            f"{len(simulation.newcomers.user)} evaluated users have no training data: "
            "such experiments run one after the other"
        )
    population = simulation.population
    if not isinstance(population, Resident) or simulation.mesh.size > 1:
        raise ValueError(
            "experiments run side by side if one device holds the whole population of "
            "a run: mesh.devices=1 and store.location='device'"
        )
    return population.data


def _evaluation_of(simulation: Simulation) -> Callable:
    """`(state, personal, hparams, key, groups, data, frozen) -> {metric: [E]}`."""
    evaluate = make_evaluate(
        simulation.recipe,
        simulation.protocol,
        simulation.user_chunk,
        simulation.chunks,
        metric=simulation.metric,
    )

    def evaluate_one(state, personal, hparams, key, groups, data, frozen):
        fixed = (data, frozen, hparams, key, derive(key, Purpose.EVALUATION))
        # On a device that holds all clients a client's row is its id.
        results = [
            evaluate(bucket, state, personal, targets, ids, ids, *fixed)
            for bucket, (targets, ids) in groups.items()
        ]
        return jax.tree.map(lambda *xs: jnp.concatenate(xs), *results)

    return evaluate_one


def _rmse_of(simulation: Simulation) -> Callable:
    """`(state, personal, hparams, key, ratings, frozen) -> scalar`."""
    squares: Callable = make_squares(simulation.recipe)

    def rmse_one(state, personal, _hparams, _key, ratings, frozen):
        return jnp.sqrt(squares(state, personal, *ratings, frozen).mean())

    return rmse_one
