"""Scores of every evaluated user, from aggregated or from tuned parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Params, Recipe
from fedjax_rec.core.rounds import ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.profiling.stages import EVALUATION, staged
from fedjax_rec.simulation import mesh as meshes
from fedjax_rec.simulation.mesh import DEALT, EVERYWHERE
from fedjax_rec.simulation.round import client_key, train_client


def score_user(
    recipe: Recipe, params: Params, frozen: Tree, user: Array, candidates, **query
) -> Array:
    """`[K]` (or `[I]`) scores of one user under the given parameters."""
    return recipe.model.score(params, frozen, {"user": user, **query}, candidates)


def lifted(recipe: Recipe, shared: Tree, frozen: Tree, axis: str | None) -> Tree:
    """Shared parameters with all items' vectors computed once, where a model can."""
    lift = recipe.model.lift
    return shared if lift is None else lift(shared, frozen, axis=axis)


def score_tuned(
    recipe: Recipe, shared: Tree, result, frozen: Tree, user: Array, candidates
) -> Array:
    """One user's scores under the parameters its client holds after local training.

    Only the rows the client touched differ from the shared table. All items are scored
    from the shared rows, then the touched ones again from the tuned rows: no client
    needs a whole table of its own.

    Args:
        recipe: the system.
        shared: the shared parameters the client started from.
        result: the client's `ClientResult`.
        frozen: the frozen arrays.
        user: scalar id.
        candidates: `[K]` item ids, or `None` for all.

    Returns:
        `[K]` or `[I]`.
    """
    stack = recipe.model.stack
    if stack is not None:  # the delta is that of the client's own model
        one = stack.take(Params(shared=shared, personal=result.personal))
        shared, result = one.shared, dataclasses.replace(result, personal=one.personal)
        delta = {name: result.delta[name] for name in shared}
        result = dataclasses.replace(result, delta=delta)
        recipe = recipe._replace(model=stack.model)

    def tune(leaf, change):
        if not rows.is_table(leaf):
            return leaf + change
        if leaf.space != "item":
            values = rows.scatter_add(leaf.values, change)
            return dataclasses.replace(leaf, values=values)
        first = rows.first_occurrence(change.ids, leaf.values.shape[0])
        merged = jnp.zeros_like(change.values).at[first].add(change.values)
        start = leaf.values.at[change.ids].get(mode="clip")
        return dataclasses.replace(leaf, values=start + merged)

    def is_item_table(leaf):
        return rows.is_table(leaf) and leaf.space == "item"

    after = jax.tree.map(tune, shared, result.delta, is_leaf=rows.is_table)
    before = jax.tree.map(
        lambda old, new: old if is_item_table(old) else new,
        shared,
        after,
        is_leaf=rows.is_table,
    )
    scores = score_user(
        recipe,
        Params(shared=before, personal=result.personal),
        frozen,
        user,
        candidates,
    )
    touched = [
        (leaf.values.shape[0], change.ids)
        for leaf, change in zip(
            jax.tree.leaves(shared, is_leaf=rows.is_table),
            jax.tree.leaves(result.delta, is_leaf=rows.is_rows),
            strict=True,
        )
        if is_item_table(leaf)
    ]
    if not touched:
        return scores
    num_items, ids = touched[0]
    first = rows.first_occurrence(ids, num_items)
    real = (first == jnp.arange(len(ids))) & (ids < num_items)
    params = Params(shared=after, personal=result.personal)
    at = jnp.minimum(ids, num_items - 1)
    tuned = score_user(recipe, params, frozen, user, None, text=at)
    target = jnp.where(real, ids, num_items)
    if candidates is None:
        return scores.at[target].set(tuned, mode="drop")
    place = jnp.full(num_items, len(ids), jnp.int32)
    place = place.at[target].set(jnp.arange(len(ids), dtype=jnp.int32), mode="drop")
    at = place[candidates]
    found = tuned.at[at].get(mode="fill", fill_value=0)
    return jnp.where(at < len(ids), found, scores)


def make_evaluate(
    recipe: Recipe,
    protocol: Protocol,
    user_chunk: int = 64,
    chunks: tuple[int, ...] = (),
    axis: str | None = None,
):
    """Builds the evaluation of a state on some users.

    Args:
        recipe: the system.
        protocol: `evaluated` says which parameters.
        user_chunk: users scored at once from aggregated parameters.
        chunks: `V` of each size bucket, for tuned parameters.
        axis: of the mesh over which users are dealt, each to where its client lies.

    Returns:
        `(bucket, state, personal, targets, clients [E], rows [E], data, frozen,
        hparams, root_key, key) -> {metric: [E]}`, pure; `bucket` is static. `clients`
        are the ids of the users' clients and `rows` where they stand in `personal` and
        `data`. For tuned parameters all of them are of one size bucket.
    """

    def run(
        bucket: int,
        state: ServerState,
        personal,
        targets,
        clients,
        rows_,
        data,
        frozen,
        hparams,
        root,
        key,
    ):
        shared, chunk = state.shared, user_chunk
        if protocol.evaluated != "tuned":
            shared = lifted(recipe, shared, frozen, axis)
        if protocol.evaluated != "aggregated":
            chunk = chunks[bucket]
        train = train_client(recipe, data, bucket)

        def score(users, candidates, *beside):
            clients, rows_ = beside
            own = trees.take(personal, rows_)
            axes = (0, 0, 0, 0, None if candidates is None else 0)

            def one(own, client, row, user, candidates):
                if protocol.evaluated == "aggregated":
                    params = Params(shared=shared, personal=own)
                    return score_user(recipe, params, frozen, user, candidates)
                own_key = client_key(root, state.round, client)
                result = train(shared, own, frozen, hparams, row, own_key)
                if protocol.evaluated == "reconstructed":
                    params = Params(shared=shared, personal=result.personal)
                    return score_user(recipe, params, frozen, user, candidates)
                return score_tuned(recipe, shared, result, frozen, user, candidates)

            return jax.vmap(one, in_axes=axes)(own, clients, rows_, users, candidates)

        beside = (clients, rows_)
        return evaluate(score, targets, protocol, key, chunk, beside)

    return staged(EVALUATION, run)


def make_squares(recipe: Recipe, chunk: int = 4096, axis: str | None = None):
    """Builds the squared errors of predicted ratings.

    Returns:
        `(state, personal, rows [n], user [n], item [n], rating [n], frozen) -> [n]`,
        pure: every interaction is predicted from the aggregated parameters and its
        client's personal ones, and the scores are taken for ratings.
    """

    def squares(state, personal, rows_, user, item, rating, frozen):
        shared = lifted(recipe, state.shared, frozen, axis)

        def square(row):
            at, user, item, rating = row
            own = trees.take(personal, at)
            params = Params(shared=shared, personal=own)
            predicted = score_user(recipe, params, frozen, user, item[None])[0]
            return jnp.square(predicted - rating)

        return jax.lax.map(square, (rows_, user, item, rating), batch_size=chunk)

    return staged(EVALUATION, squares)


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


_OF_USERS = ("user", "positives", "exclude_offset", "exclude_size", "candidates")


def take_users(targets: Targets, at: np.ndarray, length: int | None = None) -> Targets:
    """The evaluated users at positions `at`; -1 is padding, and wants nothing.

    Args:
        targets: as NumPy arrays (or memory maps: only these users' are read), unless
            `length` is left out.
        at: `[n]`.
        length: cuts the exclusions out as well, and pads them to so many; by default
            they stay whole.

    Raises:
        ValueError: they do not fit.
    """
    fields: dict[str, Any] = {
        name: None if (array := getattr(targets, name)) is None else array[at]
        for name in _OF_USERS
    }
    real = at >= 0
    wanted = np.where(real[:, None], fields["positives"], targets.num_items)
    fields["positives"] = wanted
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
    # Of few lengths, for few programs.
    length = min(len(targets.exclude_items), 1 << (most - 1).bit_length())
    alone = dataclasses.replace(targets, pool=None)
    dealt = meshes.place_taken(mesh, at, lambda own: take_users(alone, own, length))
    return dataclasses.replace(dealt, pool=meshes.place(mesh, targets.pool))


def target_specs(targets: Targets) -> Any:
    """Which arrays of dealt targets are dealt: all but the pool."""
    specs = jax.tree.map(lambda _: DEALT, targets)
    if targets.pool is not None:
        specs = dataclasses.replace(specs, pool=EVERYWHERE)
    return specs
