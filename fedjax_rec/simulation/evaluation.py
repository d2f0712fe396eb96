"""Evaluated users, laid out over the devices, and their metrics."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.per_user import PerUser, in_order
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Measure
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.profiling.stages import EVALUATION_HERE, on_host
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.dealt_users import deal_users
from fedjax_rec.simulation.hosted import Hosted
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.simulation.resident import Block, Resident, Setup
from fedjax_rec.simulation.scoring import make_evaluate, make_squares

if TYPE_CHECKING:
    from fedjax_rec.simulation.simulation import Simulation


class Audience(NamedTuple):
    """Clients that serve evaluated users.

    Attributes:
        population: their personal parameters and data.
        data: their data, as NumPy arrays.
        client_of_user: `[U]` positions in the population, its size for other users.
        chunks: `V` of each size bucket.
        ids: client ids; by default their positions.
    """

    population: Resident | Hosted
    data: ClientData
    client_of_user: np.ndarray
    chunks: tuple[int, ...]
    ids: np.ndarray | None = None

    def id_of(self, clients: np.ndarray) -> np.ndarray:
        """Ids of clients by their positions."""
        return clients if self.ids is None else self.ids[clients]

    def served(self, users: np.ndarray) -> np.ndarray:
        """Positions, among `users`, of those that are served."""
        return np.flatnonzero(self.client_of_user[users] < self.data.num_clients)


def audiences_of(sim: Simulation, setup: Setup) -> list[Audience]:
    """The population of a simulation, and the newcomers, if there are any."""
    audiences = [Audience(sim.population, sim.data, sim.client_of_user, sim.chunks)]
    if sim.newcomers is not None:
        ids, data = sim.newcomers.ids, sim.newcomers.data
        population = Resident(setup._replace(data=data, ids=ids))
        place = sim.newcomers.place_of(data.num_users)
        chunks = sim.newcomer_chunks
        audiences.append(Audience(population, data, place, chunks, ids))
    return audiences


class Evaluator:
    """The compiled evaluation of a simulation.

    It holds no reference to the simulation, which would keep its arrays in memory.
    """

    def __init__(self, sim: Simulation):
        self._dealt: dict[tuple[str, int, int], tuple[Targets, Array]] = {}
        self._last: dict[str, tuple[int, np.ndarray, dict[str, Array]]] = {}
        key = keys.derive(sim.key, keys.Purpose.EVALUATION)
        self._constants = meshes.place(sim.mesh, (sim.recipe.hparams, sim.key, key))
        settings = (sim.mesh, sim.protocol, sim.user_chunk, sim.metric)
        self._ranks = [
            functools.partial(sim.setup.programs.get, _make_rank, *settings, a.chunks)
            for a in sim.audiences
        ]
        self._squares = sim.setup.programs.get(_make_squares, sim.mesh)

    @on_host(EVALUATION_HERE)
    def evaluate(self, sim: Simulation, part: str) -> dict[str, float]:
        """Means and dispersion over the users of `"val"` or `"test"`."""
        user = np.asarray(sim.targets[part].user)
        results, masks, owners, order = [], [], [], []
        for number, bucket, group in user_groups(sim, part):
            audience = sim.audiences[number]
            clients = audience.client_of_user[user[group]]
            for block in audience.population.blocks(clients):
                targets, ids = self._deal(sim, part, number, bucket, group, block)
                inputs = (block.personal, targets, ids, block.rows, block.data)
                per_user = self._ranks[number](bucket)(
                    sim.state, *inputs, sim.frozen, *self._constants
                )
                results.append(per_user)
                masks.append(targets.mask)
                order.append(np.where(block.order >= 0, group[block.order], -1))
                owner = audience.id_of(clients[block.order])
                owners.append(np.where(block.order >= 0, owner, -1))
        per_user, mask = results[0], masks[0]
        if len(results) > 1:
            per_user = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *results)
            mask = jnp.concatenate(masks)
        owner = np.concatenate(owners) if sim.multi_user else None
        round_ = int(sim.state.round)
        self._last[part] = (round_, np.concatenate(order), per_user)
        return summarise(per_user, mask, owner)

    def users(self, sim: Simulation, part: str) -> PerUser | None:
        """Metrics of each user at the last evaluation of a part, if there was one."""
        if part not in self._last:
            return None
        round_, order, per_user = self._last[part]
        if jax.process_count() > 1:  # each process has its own devices' users
            everywhere = NamedSharding(sim.mesh, EVERYWHERE)
            per_user = jax.jit(lambda x: x, out_shardings=everywhere)(per_user)
        return in_order(order, jax.device_get(per_user), user_ids(sim, part), round_)

    def _deal(
        self,
        sim: Simulation,
        part: str,
        number: int,
        bucket: int,
        group: np.ndarray,
        block: Block,
    ) -> tuple[Targets, Array]:
        """A block's users and the ids of their clients, on the clients' devices."""
        place = (part, number, bucket)
        if place in self._dealt:
            return self._dealt[place]
        audience, targets = sim.audiences[number], sim.targets[part]
        real = block.order >= 0
        positions = np.where(real, group[block.order], -1)
        clients = audience.client_of_user[np.asarray(targets.user)[positions]]
        clients = audience.id_of(np.where(real, clients, 0))
        ids = np.where(real, clients, sim.data.num_clients)
        dealt = (
            deal_users(sim.mesh, targets, positions),
            meshes.place(sim.mesh, ids.astype(np.int32), DEALT),
        )
        if audience.population.still:
            self._dealt[place] = dealt
        return dealt

    @on_host(EVALUATION_HERE)
    def rmse(self, sim: Simulation, part: str) -> float:
        """Root mean squared error of the predicted ratings of a part."""
        user, total = getattr(sim.split, part).user, 0.0
        for audience in sim.audiences:
            rows = audience.served(user)
            if not len(rows):
                continue

            def take(at: np.ndarray, rows=rows) -> tuple[np.ndarray, ...]:
                return at >= 0, *ratings_of(sim, part, rows[np.where(at >= 0, at, 0)])

            clients = audience.client_of_user[user[rows]]
            for block in audience.population.blocks(clients):
                real, *columns = meshes.place_taken(sim.mesh, block.order, take)
                inputs = (sim.state, block.personal, block.rows, *columns, sim.frozen)
                total += float(jnp.where(real, self._squares(*inputs), 0).sum())
        return float(np.sqrt(total / len(user)))


_SPECS = (EVERYWHERE, *(DEALT,) * 5)


def _make_rank(
    programs: Programs,
    mesh: Mesh,
    protocol: Protocol,
    user_chunk: int,
    metric: Measure | None,
    chunks: tuple[int, ...],
    bucket: int,
) -> Callable:
    """`make_evaluate` of the users of one bucket, on a mesh, jitted."""
    axis = meshes.client_axis(mesh)
    recipe = programs.recipe
    evaluate = make_evaluate(recipe, protocol, user_chunk, chunks, axis, metric)

    def evaluation(*inputs):
        return evaluate(bucket, *inputs)

    return meshes.program(evaluation, mesh, _SPECS, DEALT)


def _make_squares(programs: Programs, mesh: Mesh) -> Callable:
    """`make_squares` on a mesh, jitted."""
    squares = make_squares(programs.recipe, axis=meshes.client_axis(mesh))
    return meshes.program(squares, mesh, _SPECS, DEALT)


def user_groups(sim: Simulation, part: str) -> list[tuple[int, int, np.ndarray]]:
    """The users of a part that one program evaluates.

    Returns:
        Number of the audience, size bucket, and positions among the part's users.
    """
    user, groups = np.asarray(sim.targets[part].user), []
    for number, audience in enumerate(sim.audiences):
        served = audience.served(user)
        if not len(served):
            continue
        buckets = [(0, np.arange(len(served)))]
        if sim.protocol.evaluated != "aggregated":
            clients = audience.client_of_user
            buckets = by_bucket(user[served], audience.data, clients)
        groups += [(number, bucket, served[at]) for bucket, at in buckets]
    return groups


def user_ids(sim: Simulation, part: str) -> list[str]:
    """Ids of a part's users, as spelled in the source."""
    ids: Any = sim.split.train.users.ids
    return [ids[u] for u in np.asarray(sim.targets[part].user).tolist()]


def ratings_of(
    sim: Simulation, part: str, at: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and ratings at rows of a part, in the type of local training."""
    rows = getattr(sim.split, part)
    dtype = sim.data.interactions.columns["rating"].dtype
    return rows.user[at], rows.item[at], rows.rating[at].astype(dtype)


def check_split(split: Split, protocol: Protocol) -> None:
    """Raises a ValueError if a split lacks a part that the protocol needs."""
    if not len(split.test):
        raise ValueError("the split leaves no test interactions: hold some out")
    if not len(split.val) and protocol.selection != "last":
        raise ValueError(
            "the split leaves no validation interactions to select the best round by: "
            "use a split with validation, or protocol.selection='last'"
        )


def by_bucket(
    users: np.ndarray, data: ClientData, client_of_user: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Positions of evaluated users, by the size bucket of their client.

    Users of a client without training data go with the smallest bucket.
    """
    bucket = np.asarray(data.buckets)[client_of_user[users]]
    bucket = np.where(bucket == len(data.widths), 0, bucket)
    return [(int(g), np.flatnonzero(bucket == g)) for g in np.unique(bucket)]
