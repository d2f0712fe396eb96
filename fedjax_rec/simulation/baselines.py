"""Rankers that every result is compared with, on the run's own test users."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import keys, trees
from fedjax_rec.data.pack import pack
from fedjax_rec.evaluation.chance import chance_level
from fedjax_rec.evaluation.evaluate import by_user, evaluate, random_scores
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.simulation.chunks import fold_clients
from fedjax_rec.simulation.dealt_users import take_users
from fedjax_rec.simulation.round import client_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.contracts import Recipe
    from fedjax_rec.data.clients import ClientData
    from fedjax_rec.evaluation.protocol import Protocol
    from fedjax_rec.evaluation.ranking import Measure
    from fedjax_rec.evaluation.targets import Targets
    from fedjax_rec.simulation.programs import Programs
    from fedjax_rec.simulation.simulation import Simulation

MAX_ROUNDS = 100
"""Rounds of draws that are counted at most."""
MAX_COUNTS = 1 << 26
"""Counts of pairs of user and item at most; a sample of users is taken to fit."""


def rank_baselines(
    simulation: Simulation, roots: Sequence[Array]
) -> list[dict[str, dict[str, Any] | None]]:
    """Random, popularity and draw-count rankers of runs that differ by seed only.

    Args:
        simulation: one of the runs.
        roots: root key of each run.
    """
    targets, num_items = simulation.targets["test"], simulation.data.num_items
    counts = np.bincount(simulation.split.train.item, minlength=num_items)
    popular = jnp.asarray(counts, jnp.float32)
    rank = simulation.setup.programs.get(
        _make_rank, simulation.protocol, simulation.user_chunk, simulation.metric
    )
    rankers = {"random": None, "popularity": popular}
    owners = _owners(simulation, targets)
    results = []
    draws = rank_draws(simulation, simulation.rounds, roots)
    for root, draw_count in zip(roots, draws, strict=True):
        key = keys.derive(root, keys.Purpose.BASELINE)
        summaries = {
            name: summarise(rank(targets, key, scores), targets.mask, owners)
            for name, scores in rankers.items()
        }
        results.append({**summaries, "draw_count": draw_count})
    return results


def _make_rank(
    programs: Programs, protocol: Protocol, user_chunk: int, metric: Measure | None
):
    """`(targets, key, scores [I] of all users, or None for random ones)`, jitted."""

    @jax.jit
    def rank(targets: Targets, key: Array, scores: Array | None):
        def score(user: Array) -> Array:
            if scores is None:
                return random_scores(key, user, targets.num_items)
            return scores

        scorer = by_user(score)
        return evaluate(scorer, targets, protocol, key, user_chunk, metric=metric)

    return rank


def rank_draws(
    simulation: Simulation, rounds: int, roots: Sequence[Array]
) -> list[dict[str, Any] | None]:
    """The draw-count ranker of runs that differ by seed only.

    An item scores minus the number of times that the user drew it as a negative: a
    leak of test items into the pool of negatives shows as a good ranking. Counts tie
    often, so ties are broken at random whatever the protocol: pessimistic ties would
    hide an early leak.

    Args:
        simulation: one of the runs.
        rounds: rounds of draws, at most `MAX_ROUNDS`.
        roots: root key of each run.

    Returns:
        A summary per run, with the level and error of random rankings; `None` without
        sampled negatives.
    """
    recipe, data = simulation.recipe, simulation.data
    if not recipe.local.negatives:
        return [None] * len(roots)
    rounds = min(rounds, MAX_ROUNDS)
    protocol = dataclasses.replace(simulation.protocol, ties="random")
    targets = simulation.targets["test"]
    count = len(np.asarray(targets.user))
    step = -(-count // max(1, MAX_COUNTS // data.num_items))
    targets = take_users(targets, np.arange(0, count, step))
    users = np.asarray(targets.user)
    clients = np.arange(data.num_clients, dtype=np.int32)
    if recipe.model.single_user:
        clients = np.unique(simulation.client_of_user[users]).astype(np.int32)
        # Newcomers draw nothing in training. One client keeps the shapes defined.
        clients = clients[clients < data.num_clients]
        clients = clients if len(clients) else np.zeros(1, np.int32)
    # A copy for this program: a run's own data may lie on several devices, or on none.
    (data,) = pack(data, [clients])
    rows = np.arange(len(clients), dtype=np.int32)

    settings = (protocol, simulation.user_chunk, simulation.metric, simulation.chunks)
    rank = simulation.setup.programs.get(_make_rank_draws, *settings)
    results, owners = [], _owners(simulation, targets)
    levels = chance_level(targets, protocol.cutoffs)
    for root in roots:
        per_user = rank(data, users, clients, rows, targets, root, np.int32(rounds))
        summary = summarise(per_user, targets.mask, owners)
        facts = {"rounds": rounds, "users": len(users)}
        results.append({**summary, **levels, **facts})
    return results


def _make_rank_draws(
    programs: Programs,
    protocol: Protocol,
    user_chunk: int,
    metric: Measure | None,
    chunks: tuple[int, ...],
):
    """`(data, users, clients, rows, targets, root, rounds)`, jitted."""

    @jax.jit
    def rank(data, users, clients, rows, targets, root, rounds):
        counts = count_draws(
            programs.recipe, data, chunks, users, clients, rows, root, 0, rounds
        )
        position = jnp.zeros(data.num_users, jnp.int32)
        position = position.at[users].set(jnp.arange(users.shape[0], dtype=jnp.int32))

        scorer = by_user(lambda user: -counts[position[user]].astype(jnp.float32))
        return evaluate(scorer, targets, protocol, root, user_chunk, metric=metric)

    return rank


def _owners(simulation: Simulation, targets: Targets) -> np.ndarray | None:
    """`[E]` the users' clients, if some client holds several users.

    Each newcomer is a client of its own.
    """
    if not simulation.multi_user:
        return None
    user, absent = np.asarray(targets.user), simulation.data.num_clients
    clients = simulation.client_of_user[user]
    return np.where(clients < absent, clients, absent + user)


def count_draws(
    recipe: Recipe,
    data: ClientData,
    chunks: tuple[int, ...],
    users: Array,
    clients: Array,
    rows: Array,
    root: Array,
    first_round: int | Array,
    rounds: Array,
) -> Array:
    """How often each user drew each item as a negative, by the run's own keys.

    Args:
        recipe: the system.
        data: client data.
        chunks: `V` of each bucket.
        users: `[S]` int32, ascending; the draws of these users are counted.
        clients: `[C]` int32, the clients that draw for them.
        rows: `[C]` int32, the clients' rows in `data`; absent ones are past its end.
        root: root key of the experiment.
        first_round: scalar, the first round that is counted.
        rounds: scalar, number of rounds; every client takes part in each.

    Returns:
        `[S, I]` int32.
    """
    if recipe.local.draw is None:
        raise ValueError("this recipe draws no pairs, so there are no negatives")
    draw, num_items, s = recipe.local.draw, data.num_items, users.shape[0]
    slot = jnp.full(data.num_users + 1, s, jnp.int32).at[users].set(jnp.arange(s))

    def one_round(i, counts):
        client_keys = jax.vmap(client_key, (None, None, 0))(
            root, first_round + i, clients
        )

        def visit(counts, bucket, slots, chunk):
            def draw_one(row, key):
                pairs = draw(data.examples(row, bucket), jax.random.split(key, 3)[0])
                negative = pairs["mask"] & (pairs["label"] == 0)
                item = jnp.where(negative, pairs["item"], num_items)
                return slot[pairs["user"]], item

            user, item = jax.vmap(draw_one)(chunk, trees.take(client_keys, slots))
            return counts.at[user.reshape(-1), item.reshape(-1)].add(1, mode="drop")

        return fold_clients(visit, counts, rows, data, chunks)

    counts = jnp.zeros((s, num_items), jnp.int32)
    return jax.lax.fori_loop(0, rounds, one_round, counts)
