"""Evaluated users, laid out over the devices, and their metrics."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.data.splits import Split
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.profiling.stages import EVALUATION_HERE, on_host
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.hosted import Hosted
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.resident import Block, Resident
from fedjax_rec.simulation.scoring import make_evaluate, make_squares


@dataclasses.dataclass(kw_only=True, eq=False)
class Evaluator:
    """Evaluates server states on the users of a population.

    Attributes:
        recipe: the system.
        protocol: evaluation protocol.
        split: train, validation and test.
        targets: users and positives of each part.
        data: training data of all clients, as NumPy arrays.
        client_of_user: `[U]` the client that serves each user.
        multi_user: whether some clients hold several users.
        chunks: `V` of each bucket.
        user_chunk: users scored at once.
        mesh: the devices.
        key: root key of the experiment.
        frozen: arrays that no client trains, on the devices.
        population: personal state and data of all clients.
    """

    recipe: Recipe
    protocol: Protocol
    split: Split
    targets: dict[str, Targets]
    data: ClientData
    client_of_user: np.ndarray
    multi_user: bool
    chunks: tuple[int, ...]
    user_chunk: int
    mesh: Mesh
    key: Array
    frozen: Tree
    population: Hosted | Resident

    def __post_init__(self) -> None:
        mesh, axis = self.mesh, meshes.client_axis(self.mesh)
        self._dealt: dict[tuple[str, int], tuple[Targets, Array]] = {}
        self._constants = meshes.place(
            mesh,
            (
                self.recipe.hparams,
                self.key,
                keys.derive(self.key, keys.Purpose.EVALUATION),
            ),
        )
        evaluate = make_evaluate(
            self.recipe, self.protocol, self.user_chunk, self.chunks, axis
        )
        squares = make_squares(self.recipe, axis=axis)
        specs = (EVERYWHERE, *(DEALT,) * 5)

        @functools.cache
        def rank(bucket: int):
            def evaluation(*inputs):
                return evaluate(bucket, *inputs)

            return meshes.program(evaluation, mesh, specs, DEALT)

        self._rank = rank
        self._squares = meshes.program(squares, mesh, specs, DEALT)

    @on_host(EVALUATION_HERE)
    def evaluate(self, part: str, state: ServerState) -> dict[str, float]:
        """Means and dispersion over the users of `"val"` or `"test"`."""
        user = np.asarray(self.targets[part].user)
        results, masks, owners = [], [], []
        for bucket, at in self.groups(part):
            clients = self.client_of_user[user[at]]
            for block in self.population.blocks(clients):
                targets, ids = self._deal(part, bucket, at, clients, block)
                inputs = (block.personal, targets, ids, block.rows, block.data)
                per_user = self._rank(bucket)(
                    state, *inputs, self.frozen, *self._constants
                )
                results.append(per_user)
                masks.append(targets.mask)
                owners.append(np.where(block.order >= 0, clients[block.order], -1))
        per_user, mask = results[0], masks[0]
        if len(results) > 1:
            per_user = jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *results)
            mask = jnp.concatenate(masks)
        return summarise(
            per_user, mask, np.concatenate(owners) if self.multi_user else None
        )

    def _deal(
        self, part: str, bucket: int, at: np.ndarray, clients: np.ndarray, block: Block
    ) -> tuple[Targets, Array]:
        """A block's users and the ids of their clients, on the clients' devices."""
        if (part, bucket) in self._dealt:
            return self._dealt[part, bucket]
        order = block.order
        ids = np.where(order >= 0, clients[order], self.data.num_clients)
        at = np.where(order >= 0, at[order], -1)
        dealt = (
            deal_users(self.mesh, self.targets[part], at),
            meshes.place(self.mesh, ids.astype(np.int32), DEALT),
        )
        if self.population.still:
            self._dealt[part, bucket] = dealt
        return dealt

    @on_host(EVALUATION_HERE)
    def rmse(self, part: str, state: ServerState) -> float:
        """Root mean squared error of the predicted ratings of a part."""

        def take(at: np.ndarray) -> tuple[np.ndarray, ...]:
            return at >= 0, *self.ratings(part, np.where(at >= 0, at, 0))

        user, total = getattr(self.split, part).user, 0.0
        for block in self.population.blocks(self.client_of_user[user]):
            real, *columns = meshes.place_taken(self.mesh, block.order, take)
            squares = self._squares(
                state, block.personal, block.rows, *columns, self.frozen
            )
            total += float(jnp.where(real, squares, 0).sum())
        return float(np.sqrt(total / len(user)))

    def groups(self, part: str) -> list[tuple[int, np.ndarray]]:
        """Positions of a part's users that one program evaluates, by size bucket."""
        user = np.asarray(self.targets[part].user)
        if self.protocol.evaluated == "aggregated":
            return [(0, np.arange(len(user)))]
        return by_bucket(user, self.data, self.client_of_user)

    def ratings(self, part: str, at: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Users, items and ratings at rows of a part, in the type of local training."""
        rows = getattr(self.split, part)
        dtype = self.data.interactions.columns["rating"].dtype
        return rows.user[at], rows.item[at], rows.rating[at].astype(dtype)

    @property
    def rated(self) -> tuple[str, ...]:
        """Parts whose ratings are predicted: for explicit feedback, all there are."""
        parts = () if self.recipe.local.negatives else ("train", "val", "test")
        return tuple(part for part in parts if len(getattr(self.split, part)))

    def owners(self, targets: Targets) -> np.ndarray | None:
        """`[E]` the users' clients, if some client holds several users."""
        if not self.multi_user:
            return None
        return self.client_of_user[np.asarray(targets.user)]


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

    Users whose client has no training data go with the smallest bucket: there they
    train on nothing.
    """
    bucket = np.asarray(data.buckets)[client_of_user[users]]
    bucket = np.where(bucket == len(data.widths), 0, bucket)
    return [(int(g), np.flatnonzero(bucket == g)) for g in np.unique(bucket)]


_USER_FIELDS = ("user", "positives", "exclude_offset", "exclude_size", "candidates")


def take_users(targets: Targets, at: np.ndarray, length: int | None = None) -> Targets:
    """The evaluated users at positions `at`; -1 is padding, without positives.

    Args:
        targets: targets as NumPy arrays (or memory maps, of which only these users'
            parts are read), unless `length` is left out.
        at: `[n]`.
        length: also cuts out the users' exclusions, and pads them to this length; by
            default all exclusions stay.

    Raises:
        ValueError: they do not fit.
    """
    fields: dict[str, Any] = {
        name: None if (array := getattr(targets, name)) is None else array[at]
        for name in _USER_FIELDS
    }
    real = at >= 0
    positives = np.where(real[:, None], fields["positives"], targets.num_items)
    fields["positives"] = positives
    if length is not None:
        size = np.where(real, fields["exclude_size"], 0)
        total = int(size.sum())
        if total >= length:
            raise ValueError(f"{total} exclusions do not fit in {length - 1}")
        offset = np.cumsum(size) - size
        source = np.repeat(fields["exclude_offset"] - offset, size) + np.arange(total)
        items = np.full(length, targets.num_items, np.int32)
        items[:total] = targets.exclude_items[source]
        fields |= {
            "exclude_items": items,
            "exclude_offset": offset.astype(np.int32),
            "exclude_size": size.astype(np.int32),
        }
    return dataclasses.replace(targets, **fields)


def deal_users(mesh: Mesh, targets: Targets, at: np.ndarray) -> Targets:
    """The evaluated users at `at` (`[shares * n]`), dealt over a mesh."""
    size = np.where(at >= 0, np.asarray(targets.exclude_size)[at], 0)
    most = int(size.reshape(meshes.shares(mesh), -1).sum(axis=1).max()) + 1
    # A power of two, so that few programs serve all blocks.
    length = min(len(targets.exclude_items), 1 << (most - 1).bit_length())
    without_pool = dataclasses.replace(targets, pool=None)
    dealt = meshes.place_taken(
        mesh, at, lambda share: take_users(without_pool, share, length)
    )
    return dataclasses.replace(dealt, pool=meshes.place(mesh, targets.pool))
