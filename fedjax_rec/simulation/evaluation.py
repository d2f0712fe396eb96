"""Scores of every evaluated user, from aggregated or from tuned parameters."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import rows
from fedjax_rec.data.clients import ClientData
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.simulation.round import client_key, train_client
from fedjax_rec.types import Array, Params, Recipe, ServerState, Tree


def score_user(
    recipe: Recipe, params: Params, frozen: Tree, user: Array, candidates, **query
) -> Array:
    """`[K]` (or `[I]`) scores of one user under the given parameters."""
    return recipe.model.score(params, frozen, {"user": user, **query}, candidates)


def lifted(recipe: Recipe, shared: Tree, frozen: Tree) -> Tree:
    """Shared parameters with all items' vectors computed once, where a model can."""
    return recipe.model.lift(shared, frozen) if recipe.model.lift else shared


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
):
    """Builds the evaluation of a state.

    Args:
        recipe: the system.
        protocol: `evaluated` says which parameters.
        user_chunk: users scored at once from aggregated parameters.
        chunks: `V` of each size bucket, for tuned parameters.

    Returns:
        `(state, personal, targets, client_of_user, data, frozen, hparams, root_key,
        key) -> {metric: [E]}`, pure. For tuned parameters `targets` is a tuple, one
        for each bucket as `by_bucket` makes it, and so is the result's order.
    """

    def aggregated(
        state: ServerState,
        personal,
        targets,
        client_of_user,
        data,
        frozen,
        hparams,
        root,
        key,
    ):
        del data, hparams, root
        shared = lifted(recipe, state.shared, frozen)

        def score(users, candidates):
            own = jax.tree.map(lambda x: x[client_of_user[users]], personal)
            axes = (0, 0, None if candidates is None else 0)

            def one(own, user, candidates):
                params = Params(shared=shared, personal=own)
                return score_user(recipe, params, frozen, user, candidates)

            return jax.vmap(one, in_axes=axes)(own, users, candidates)

        return evaluate(score, targets, protocol, key, user_chunk)

    def tuned(
        state: ServerState,
        personal,
        targets,
        client_of_user,
        data,
        frozen,
        hparams,
        root,
        key,
    ):
        results = []
        for bucket, part in enumerate(targets):
            if part is None:
                continue
            train = train_client(recipe, data, bucket)

            def score(users, candidates, train=train):
                clients = client_of_user[users]
                own = jax.tree.map(lambda x: x[clients], personal)
                axes = (0, 0, 0, None if candidates is None else 0)

                def one(own, client, user, candidates):
                    own_key = client_key(root, state.round, client)
                    result = train(state.shared, own, frozen, hparams, client, own_key)
                    return score_tuned(
                        recipe, state.shared, result, frozen, user, candidates
                    )

                return jax.vmap(one, in_axes=axes)(own, clients, users, candidates)

            results.append(evaluate(score, part, protocol, key, chunks[bucket]))
        return {
            name: jnp.concatenate([result[name] for result in results])
            for name in results[0]
        }

    return aggregated if protocol.evaluated == "aggregated" else tuned


def make_rmse(recipe: Recipe, chunk: int = 4096):
    """Builds the root mean squared error of predicted ratings.

    Returns:
        `(state, personal, client [n], user [n], item [n], rating [n], frozen) ->
        scalar`, pure: every interaction is predicted from the aggregated parameters
        and its client's personal ones, and the scores are taken for ratings.
    """

    def rmse(state, personal, client, user, item, rating, frozen):
        shared = lifted(recipe, state.shared, frozen)

        def square(row):
            client, user, item, rating = row
            own = jax.tree.map(lambda x: x[client], personal)
            params = Params(shared=shared, personal=own)
            predicted = score_user(recipe, params, frozen, user, item[None])[0]
            return jnp.square(predicted - rating)

        rows_ = (client, user, item, rating)
        return jnp.sqrt(jax.lax.map(square, rows_, batch_size=chunk).mean())

    return rmse


def same_shapes(parts: list[Targets]) -> list[Targets]:
    """Pads targets so that one compiled evaluation serves validation and test.

    Under sampled candidates nothing is excluded by id, so exclusions are dropped.
    """
    if all(part.candidates is not None for part in parts):
        parts = [
            dataclasses.replace(
                part,
                exclude_items=part.exclude_items[-1:],
                exclude_offset=jnp.zeros_like(part.exclude_offset),
                exclude_size=jnp.zeros_like(part.exclude_size),
                max_exclude=1,
            )
            for part in parts
        ]
    flat = max(len(part.exclude_items) for part in parts)
    width = max(part.positives.shape[1] for part in parts)
    exclude = max(part.max_exclude for part in parts)

    def pad(array: Array, axis: int, length: int, value: int) -> Array:
        widths = [(0, 0)] * array.ndim
        widths[axis] = (0, length - array.shape[axis])
        return jnp.pad(array, widths, constant_values=value)

    return [
        dataclasses.replace(
            part,
            positives=pad(part.positives, 1, width, part.num_items),
            exclude_items=pad(part.exclude_items, 0, flat, part.num_items),
            max_exclude=exclude,
        )
        for part in parts
    ]


def by_bucket(
    targets: Targets, data: ClientData, client_of_user: np.ndarray
) -> tuple[Targets | None, ...]:
    """Splits evaluated users by the size bucket of their client.

    Users whose client has no training data go with the smallest bucket: there they
    train on nothing.
    """
    bucket = np.asarray(data.buckets)[client_of_user[np.asarray(targets.user)]]
    bucket = np.where(bucket == len(data.widths), 0, bucket)
    parts: list[Targets | None] = []
    for g in range(len(data.widths)):
        at = np.flatnonzero(bucket == g)
        if not len(at):
            parts.append(None)
            continue
        parts.append(take_users(targets, at))
    return tuple(parts)


def take_users(targets: Targets, at: np.ndarray) -> Targets:
    """The evaluated users at positions `at`."""
    fields = {
        name: getattr(targets, name)[at]
        for name in ("user", "positives", "exclude_offset", "exclude_size")
    }
    candidates = None if targets.candidates is None else targets.candidates[at]
    return dataclasses.replace(targets, **fields, candidates=candidates)
