"""The items that a simulation ranks first for users, by its compiled scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.precision import at_precision
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.evaluation import Audience, by_bucket
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.programs import Programs
from fedjax_rec.simulation.scoring import make_score

if TYPE_CHECKING:
    from fedjax_rec.simulation.simulation import Simulation

_AT_ONCE = 4_096
"""Users of one program."""


class Recommendation(NamedTuple):
    """An item for a user.

    Attributes:
        item: its id, as spelled in the source.
        title: its title, or its id if the data have no titles.
        score: its score; scores of one user are comparable, those of two need not be.
    """

    item: str
    title: str
    score: float


class Ranked(NamedTuple):
    """The best items of users, in descending order of the score.

    Attributes:
        items: `[E, k]` int32; `I` where a user has fewer items left.
        scores: `[E, k]`.
    """

    items: np.ndarray
    scores: np.ndarray


def rank(
    sim: Simulation,
    audiences: list[Audience],
    users: np.ndarray,
    seen: np.ndarray,
    k: int,
    frozen: Any,
) -> Ranked:
    """Ranks items but the seen ones for users, from the current parameters.

    They are all items, or with cold candidates those that the test ranks.

    Args:
        sim: the simulation.
        audiences: clients that serve the users.
        users: `[E]`, all of them served.
        seen: `[E, S]` item ids that are left out, padded with `I`.
        k: items per user.
        frozen: frozen arrays.
    """
    count, hparams = len(users), meshes.place(sim.mesh, sim.recipe.hparams)
    fixed = (frozen, hparams, *meshes.place(sim.mesh, (sim.key, _ranked_items(sim))))
    items = np.full((count, k), sim.split.train.num_items, np.int32)
    scores = np.full((count, k), -np.inf, np.float32)
    for audience, bucket, group in _groups(sim, audiences, users):
        settings = (sim.mesh, sim.protocol, sim.user_chunk, audience.chunks, bucket, k)
        program = sim.setup.programs.get(_make_program, *settings)
        # A power of two, so that few programs serve all numbers of users.
        size = min(_AT_ONCE, 1 << (len(group) - 1).bit_length())
        for first in range(0, len(group), size):
            part = group[first : first + size]
            clients = np.full(size, audience.data.num_clients)
            clients[: len(part)] = audience.client_of_user[users[part]]
            for block in audience.population.blocks(clients):
                real = (block.order >= 0) & (block.order < len(part))
                at = part[np.where(real, block.order, 0)]
                ids = np.where(real, audience.id_of(clients[block.order * real]), 0)
                columns = (users[at], seen[at], ids.astype(np.int32))
                placed = meshes.place(sim.mesh, columns, DEALT)
                best = program(
                    sim.state,
                    block.personal,
                    *placed,
                    block.rows,
                    block.data,
                    *fixed,
                )
                found, value = map(np.asarray, best)
                items[at[real]], scores[at[real]] = found[real], value[real]
    return Ranked(items, scores)


def _ranked_items(sim: Simulation) -> np.ndarray:
    """`[I]` bool: items that the protocol ranks for the test."""
    num_items = sim.split.train.num_items
    if sim.protocol.candidates != "cold":
        return np.ones(num_items, bool)
    return np.isin(np.arange(num_items), sim.split.info["test_items"])


def _groups(
    sim: Simulation, audiences: list[Audience], users: np.ndarray
) -> Iterator[tuple[Audience, int, np.ndarray]]:
    """The positions among users that one program ranks."""
    for audience in audiences:
        served = audience.served(users)
        buckets = [(0, np.arange(len(served)))]
        if sim.protocol.evaluated != "aggregated" and len(served):
            clients = audience.client_of_user
            buckets = by_bucket(users[served], audience.data, clients)
        for bucket, at in buckets:
            if len(at):
                yield audience, bucket, served[at]


def _make_program(
    programs: Programs,
    mesh: Mesh,
    protocol: Protocol,
    user_chunk: int,
    chunks: tuple[int, ...],
    bucket: int,
    k: int,
) -> Callable[..., tuple[Array, Array]]:
    """The ranking of users of one bucket, jitted.

    Returns:
        `(state, personal, users, seen, clients, rows, data, frozen, hparams, key,
        ranked [I]) -> (items, scores)`, `[E, k]` each.
    """
    axis, recipe = meshes.client_axis(mesh), programs.recipe
    score_of = make_score(recipe, protocol, user_chunk, chunks, axis)

    def best(state, personal, users, seen, clients, rows, data, *fixed):
        *fixed, ranked = fixed
        score, chunk = score_of(bucket, state, personal, data, *fixed)
        chunk = min(chunk, len(users))

        def best_of_chunk(columns):
            users, seen, clients, rows = columns
            scores = score(users, None, clients, rows)
            user = jnp.arange(len(users))[:, None]
            # As in all metrics, items without a finite score come last.
            scores = jnp.where(
                jnp.isfinite(scores), scores, jnp.finfo(scores.dtype).min
            )
            scores = jnp.where(ranked, scores, -jnp.inf)
            scores = scores.at[user, seen].set(-jnp.inf, mode="drop")
            value, items = jax.lax.top_k(scores, k)
            return jnp.where(value > -jnp.inf, items, scores.shape[1]), value

        def in_chunks(column):
            pad = [(0, -len(column) % chunk)] + [(0, 0)] * (column.ndim - 1)
            return jnp.pad(column, pad).reshape(-1, chunk, *column.shape[1:])

        columns = jax.tree.map(in_chunks, (users, seen, clients, rows))
        found = jax.lax.map(best_of_chunk, columns)
        return jax.tree.map(lambda x: x.reshape(-1, k)[: len(users)], found)

    specs = (EVERYWHERE, *(DEALT,) * 6)
    return meshes.program(at_precision(recipe.precision, best), mesh, specs, DEALT)


def seen_items(sim: Simulation, users: np.ndarray) -> np.ndarray:
    """`[E, S]` the items of users in train, validation and the shown interactions.

    Rows are padded with `I`; `S` is a power of two, so that few programs serve all
    users.
    """
    split, distinct = sim.split, np.unique(users)
    parts = [split.train, split.val, *_shown(split)]
    rows = [part.take(np.isin(part.user, distinct)) for part in parts]
    user = np.searchsorted(distinct, np.concatenate([part.user for part in rows]))
    item = np.concatenate([part.item for part in rows])
    order = np.argsort(user, kind="stable")
    user, item = user[order], item[order]
    size = np.bincount(user, minlength=len(distinct))
    width = 1 << (max(1, int(size.max(initial=0))) - 1).bit_length()
    seen = np.full((len(distinct), width), split.train.num_items, np.int32)
    seen[user, np.arange(len(user)) - (np.cumsum(size) - size)[user]] = item
    return seen[np.searchsorted(distinct, users)]


def _shown(split: Any) -> list[Any]:
    return [split.info["query"]] if "query" in split.info else []


def named(sim: Simulation, ranked: Ranked) -> list[list[Recommendation]]:
    """The items of each user by id and title."""
    items = sim.split.train.items
    ids, titles = items.ids, items.titles if items.titles is not None else items.ids
    return [
        [
            Recommendation(str(ids[i]), str(titles[i]), float(score))
            for i, score in zip(row.tolist(), scores.tolist(), strict=True)
            if i < len(ids)
        ]
        for row, scores in zip(ranked.items, ranked.scores, strict=True)
    ]
