"""Scores of users from aggregated or from tuned parameters, as pure functions."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult, Params, Recipe
from fedjax_rec.core.precision import at_precision
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.profiling.stages import EVALUATION, staged
from fedjax_rec.simulation.round import client_key, train_client


def score_tuned(
    recipe: Recipe,
    shared: Tree,
    result: ClientResult,
    frozen: Tree,
    user: Array,
    candidates: Array | None,
) -> Array:
    """One user's scores under the parameters its client holds after local training.

    Only the rows the client touched differ from the shared table. All items are scored
    from the shared rows, then the touched ones again from the tuned rows: no client
    needs a table of its own.

    Args:
        recipe: the system.
        shared: shared parameters that the client started from.
        result: outcome of its local training.
        frozen: frozen arrays.
        user: scalar id.
        candidates: `[K]` item ids, or `None` for all.

    Returns:
        `[K]` or `[I]`.
    """
    stack = recipe.model.stack
    if stack is not None:  # the delta is that of the client's own model
        params = stack.take(Params(shared=shared, personal=result.personal))
        delta = {name: result.delta[name] for name in params.shared}
        shared, recipe = params.shared, recipe._replace(model=stack.model)
        result = dataclasses.replace(result, delta=delta, personal=params.personal)

    def score(shared, candidates, query):
        params = Params(shared=shared, personal=result.personal)
        query = {"user": user, **query}
        return recipe.model.score(params, frozen, query, candidates)

    after = jax.tree.map(_tune, shared, result.delta, is_leaf=rows.is_table)
    before = jax.tree.map(
        lambda old, new: old if _is_item_table(old) else new,
        shared,
        after,
        is_leaf=rows.is_table,
    )
    scores = score(before, candidates, {})
    touched = _touched_items(shared, result.delta)
    if touched is None:
        return scores
    num_items, ids = touched
    first = rows.first_occurrence(ids, num_items)
    real = (first == jnp.arange(len(ids))) & (ids < num_items)
    tuned = score(after, None, {"text": jnp.minimum(ids, num_items - 1)})
    target = jnp.where(real, ids, num_items)
    if candidates is None:
        return scores.at[target].set(tuned, mode="drop")
    position = jnp.full(num_items, len(ids), jnp.int32)
    position = position.at[target].set(
        jnp.arange(len(ids), dtype=jnp.int32), mode="drop"
    )
    rows_ = position[candidates]
    tuned = tuned.at[rows_].get(mode="fill", fill_value=0)
    return jnp.where(rows_ < len(ids), tuned, scores)


def _is_item_table(leaf) -> bool:
    return rows.is_table(leaf) and leaf.space == "item"


def _tune(leaf, change):
    """A leaf after training; only the touched rows `[R, ...]` in an item table."""
    if not rows.is_table(leaf):
        return leaf + change
    if not _is_item_table(leaf):
        return dataclasses.replace(leaf, values=rows.scatter_add(leaf.values, change))
    first = rows.first_occurrence(change.ids, leaf.values.shape[0])
    merged = jnp.zeros_like(change.values).at[first].add(change.values)
    start = leaf.values.at[change.ids].get(mode="clip")
    return dataclasses.replace(leaf, values=start + merged)


def _touched_items(shared: Tree, delta: Tree) -> tuple[int, Array] | None:
    """`I` and the ids `[R]` of the first item table's rows, or `None` without one."""
    tables = jax.tree.leaves(shared, is_leaf=rows.is_table)
    changes = jax.tree.leaves(delta, is_leaf=rows.is_rows)
    for table, change in zip(tables, changes, strict=True):
        if _is_item_table(table):
            return table.values.shape[0], change.ids
    return None


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
        protocol: `evaluated` chooses the parameters.
        user_chunk: users scored at once from aggregated parameters.
        chunks: `V` of each size bucket, for tuned parameters.
        axis: mesh axis over which users are dealt, each to the device of its client.

    Returns:
        `(bucket, state, personal, targets, clients [E], rows [E], data, frozen,
        hparams, root_key, key) -> {metric: [E]}`, pure; `bucket` is static. `clients`
        are the ids of the users' clients, `rows` their positions in `personal` and
        `data`. For tuned parameters all of them belong to one size bucket.
    """

    def run(bucket, state, personal, targets, clients, client_rows, data, *fixed):
        frozen, hparams, root, key = fixed
        shared, chunk = state.shared, user_chunk
        if protocol.evaluated != "tuned":
            shared = _lifted(recipe, shared, frozen, axis)
        if protocol.evaluated != "aggregated":
            chunk = chunks[bucket]
        train = train_client(recipe, data, bucket)

        def score_one(personal, client, row, user, candidates):
            if protocol.evaluated != "aggregated":
                own_key = client_key(root, state.round, client)
                result = train(shared, personal, frozen, hparams, row, own_key)
                if protocol.evaluated == "tuned":
                    return score_tuned(recipe, shared, result, frozen, user, candidates)
                personal = result.personal
            params = Params(shared=shared, personal=personal)
            return recipe.model.score(params, frozen, {"user": user}, candidates)

        def score(users, candidates, *owners):
            clients, client_rows = owners
            cohort = trees.take(personal, client_rows)
            axes = (0, 0, 0, 0, None if candidates is None else 0)
            return jax.vmap(score_one, axes)(
                cohort, clients, client_rows, users, candidates
            )

        return evaluate(score, targets, protocol, key, chunk, (clients, client_rows))

    return staged(EVALUATION, at_precision(recipe.precision, run))


def make_squares(recipe: Recipe, chunk: int = 4096, axis: str | None = None):
    """Builds the squared errors of predicted ratings.

    Returns:
        `(state, personal, rows [n], user [n], item [n], rating [n], frozen) -> [n]`,
        pure. Each rating is predicted by the score from the aggregated parameters and
        the client's personal ones.
    """

    def squares(state, personal, client_rows, user, item, rating, frozen):
        shared = _lifted(recipe, state.shared, frozen, axis)

        def square(row):
            client_row, user, item, rating = row
            params = Params(shared=shared, personal=trees.take(personal, client_row))
            scores = recipe.model.score(params, frozen, {"user": user}, item[None])
            return jnp.square(scores[0] - rating)

        columns = (client_rows, user, item, rating)
        return jax.lax.map(square, columns, batch_size=chunk)

    return staged(EVALUATION, at_precision(recipe.precision, squares))


def _lifted(recipe: Recipe, shared: Tree, frozen: Tree, axis: str | None) -> Tree:
    """Shared parameters with all items' vectors computed once, if a model can."""
    lift = recipe.model.lift
    return shared if lift is None else lift(shared, frozen, axis=axis)
