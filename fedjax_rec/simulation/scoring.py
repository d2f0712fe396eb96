"""Scores of users from aggregated or from tuned parameters, as pure functions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult, Params, Recipe
from fedjax_rec.core.precision import at_precision
from fedjax_rec.core.trained_rows import changed_rows, rows_at
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Measure
from fedjax_rec.profiling.stages import EVALUATION, staged
from fedjax_rec.simulation.round import client_key, train_client


def score_tuned(
    recipe: Recipe,
    received: Params,
    result: ClientResult,
    frozen: Tree,
    user: Array,
    candidates: Array | None,
) -> Array:
    """One user's scores under the parameters its client holds after local training.

    Only the rows the client changed differ from the shared table. All items are scored
    from the shared rows, then the changed ones again: no client needs a table of its
    own.

    Args:
        recipe: the system.
        received: the client's parameters before its local training.
        result: outcome of its local training.
        frozen: frozen arrays.
        user: scalar id.
        candidates: `[K]` item ids, or `None` for all.

    Returns:
        `[K]` or `[I]`.
    """
    model, stack, personal = recipe.model, recipe.model.stack, result.personal
    shared, delta = received.shared, result.delta
    if stack is not None:  # the delta is that of the model that was trained
        trained, model = stack.trained(received, personal), stack.model
        shared, personal = trained.shared, trained.personal
        delta = {name: delta[name] for name in shared}

    def score(candidates, item_rows):
        def leaf(before, change):
            if not rows.is_table(before):
                return before + change
            if before.space == "item":
                return item_rows(before, change)
            values = rows.scatter_add(before.values, change)
            return dataclasses.replace(before, values=values)

        after = jax.tree.map(leaf, shared, delta, is_leaf=rows.is_table)
        params = Params(shared=after, personal=personal)
        return model.score(params, frozen, {"user": user}, candidates)

    if candidates is not None:
        return score(
            candidates, lambda table, change: rows_at(table, change, candidates)
        )
    scores = score(None, lambda before, _: before)
    changed = [
        changed_rows(table, change)
        for table, change in zip(
            jax.tree.leaves(shared, is_leaf=rows.is_table),
            jax.tree.leaves(delta, is_leaf=rows.is_rows),
            strict=True,
        )
        if rows.is_table(table) and table.space == "item"
    ]
    if not changed:
        return scores
    # A client's item tables have the same touched ids. Unchanged rows keep their score,
    # since the second program may sum in another order.
    ids = functools.reduce(jnp.minimum, [ids for ids, _ in changed])
    parts = iter([part for _, part in changed])
    tuned = score(jnp.minimum(ids, len(scores) - 1), lambda *_: next(parts))
    return scores.at[ids].set(tuned, mode="drop")


def make_evaluate(
    recipe: Recipe,
    protocol: Protocol,
    user_chunk: int = 64,
    chunks: tuple[int, ...] = (),
    axis: str | None = None,
    metric: Measure | None = None,
):
    """Builds the evaluation of a state on some users.

    Args:
        recipe: the system.
        protocol: `evaluated` chooses the parameters.
        user_chunk: users scored at once from aggregated parameters.
        chunks: `V` of each size bucket, for tuned parameters.
        axis: mesh axis over which users are dealt, each to the device of its client.
        metric: a further metric, see `ranking.bind`.

    Returns:
        `(bucket, state, personal, targets, clients [E], rows [E], data, frozen,
        hparams, root_key, key) -> {metric: [E]}`, pure; `bucket` is static. `clients`
        are the ids of the users' clients, `rows` their positions in `personal` and
        `data`. For tuned parameters all of them belong to one size bucket.
    """

    score_of = make_score(recipe, protocol, user_chunk, chunks, axis)

    def run(bucket, state, personal, targets, clients, client_rows, data, *fixed):
        *fixed, key = fixed
        score, chunk = score_of(bucket, state, personal, data, *fixed)
        owners = (clients, client_rows)
        return evaluate(score, targets, protocol, key, chunk, owners, metric)

    return staged(EVALUATION, at_precision(recipe.precision, run))


def make_score(
    recipe: Recipe,
    protocol: Protocol,
    user_chunk: int = 64,
    chunks: tuple[int, ...] = (),
    axis: str | None = None,
):
    """Builds the scores of users under the parameters that a protocol evaluates.

    Args:
        recipe: see `make_evaluate`, and so for the others.
        protocol: `evaluated` chooses the parameters.
        user_chunk: users scored at once from aggregated parameters.
        chunks: `V` of each size bucket, for tuned parameters.
        axis: mesh axis over which users are dealt.

    Returns:
        `(bucket, state, personal, data, frozen, hparams, root_key) -> (score, chunk)`:
        `(users [E], candidates [E, K] or None, clients [E], rows [E]) -> [E, K or I]`,
        and the number of users to score at once.
    """

    def score_of(bucket, state, personal, data, frozen, hparams, root):
        shared, chunk = state.shared, user_chunk
        if protocol.evaluated != "tuned":
            shared = _lifted(recipe, shared, frozen, axis)
        if protocol.evaluated != "aggregated":
            chunk = chunks[bucket]
        train = train_client(recipe, data, bucket)

        def trained(personal, client, row):
            own_key = client_key(root, state.round, client)
            return train(shared, personal, frozen, hparams, row, own_key)

        def score_one(personal, result, user, candidates):
            params = Params(shared=shared, personal=personal)
            if protocol.evaluated == "tuned":
                return score_tuned(recipe, params, result, frozen, user, candidates)
            if protocol.evaluated == "reconstructed":
                params = dataclasses.replace(params, personal=result.personal)
            return recipe.model.score(params, frozen, {"user": user}, candidates)

        def score(users, candidates, *owners):
            clients, client_rows = owners
            cohort, result = trees.take(personal, client_rows), None
            if protocol.evaluated != "aggregated":
                result = jax.vmap(trained)(cohort, clients, client_rows)
            axes = (0, 0, 0, None if candidates is None else 0)
            return jax.vmap(score_one, axes)(cohort, result, users, candidates)

        return score, chunk

    return score_of


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
