"""Users ranked from lifted parameters: as they are, shuffled, or after local steps."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.algorithms.fedfm import FedFM, ItemTexts
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Params, Recipe
from fedjax_rec.data import partition as partitioning
from fedjax_rec.data.clients import ClientData, make_client_data
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.evaluation.baselines import ScoreFn
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import Targets
from fedjax_rec.models.item_tower import cached_tower
from fedjax_rec.models.two_tower import VECTORS
from fedjax_rec.simulation.evaluation import take_users

TUNABLE = ("common", "history")
"""The groups that lifted parameters still hold beside the items' vectors."""

PerUser = dict[str, np.ndarray]
"""Metric name to `[E]`."""

_BLOCK = 512  # users of one call: between calls a progress bar moves
_CHUNK, _TUNED_CHUNK = 64, 16


class Place(NamedTuple):
    """Users to rank for, with what a ranker may know of them.

    Attributes:
        targets: what is to be found for whom.
        data: what their clients hold: histories, never what is to be found.
        frozen: `embedding` `[I, D]` of the catalog, and `history` `[U, L]`.
        protocol: of the ranking.
    """

    targets: Targets
    data: ClientData
    frozen: dict[str, Array]
    protocol: Protocol


def client_data(train: Interactions, users: np.ndarray, window: int) -> ClientData:
    """The latest `window` training interactions of `users`, a client each.

    All that a user holds is kept from its negatives, also what came before the window.
    """
    offsets = train.offsets()
    mine = np.isin(train.user, users)
    latest = offsets[train.user + 1] - np.arange(len(train)) <= window
    part = train.take(mine & latest)
    older = train.take(mine & ~latest)
    also = (older,) if len(older) else ()
    return make_client_data(
        part, partitioning.PerUser().partition(part), also_excluded=also, max_buckets=1
    )


def lifted_recipe(
    algorithm: FedFM, lifted: Tree, num_items: int, tune: tuple[str, ...] = ()
) -> Recipe:
    """The recipe of an algorithm for parameters whose items' vectors are a table.

    It has no backbone, and so does for any catalog.

    Args:
        algorithm: the source's.
        lifted: of `Model.lift`.
        num_items: `I`.
        tune: groups that are the client's own.
    """
    width = lifted["history"]["value"].shape[1]
    dim = lifted["common"]["user"].shape[0]
    bare = dataclasses.replace(
        algorithm,
        adapter="none",
        personal=tuple(tune),
        fixed=(),
        lora_aggregation="plain",
        ranks=(),
        rank_shares=(),
        control="none",
        shared_steps="every",
        query=0.0,
    )
    texts = ItemTexts(
        tower=lambda adapter: cached_tower(width),
        projection=jnp.zeros((width, dim)),
        center=jnp.zeros(width),
    )
    return bare.build(num_items=num_items, num_users=0, texts=texts)


def shuffled(place: Place, lifted: Tree, seed: int) -> tuple[Place, Tree]:
    """The place and parameters with every item's text exchanged for another one's.

    A text meets its item in two arrays only, so that both are permuted and nothing is
    encoded again: it equals `BackboneConfig.shuffle_texts`, whose seed is 0.
    """
    table = lifted[VECTORS]
    order = np.random.default_rng(seed).permutation(table.values.shape[0])
    embedding = place.frozen["embedding"][order]
    vectors = dataclasses.replace(table, values=table.values[order])
    return (
        place._replace(frozen={**place.frozen, "embedding": embedding}),
        {**lifted, VECTORS: vectors},
    )


def rank(
    place: Place, scorer: ScoreFn, advance: Callable[[int], None] = lambda count: None
) -> PerUser:
    """Metrics of every user under a ranker without parameters."""

    @jax.jit
    def run(targets: Targets):
        key = jax.random.key(0)
        return evaluate(scorer, targets, place.protocol, key, _CHUNK)

    return _in_blocks(run, place.targets, advance)


def rank_zero_shot(
    algorithm: Any,
    place: Place,
    lifted: Tree,
    advance: Callable[[int], None] = lambda count: None,
) -> PerUser:
    """Metrics of every user, from its history and shared parameters alone.

    Args:
        algorithm: `FedFM`, the source's.
        place: whose users.
        lifted: parameters with the vectors of the place's items.
        advance: told how many users were ranked.
    """
    run = _zero_shot(algorithm, place.targets.num_items, place.protocol)
    return _in_blocks(
        functools.partial(run, lifted, place.frozen), place.targets, advance
    )


def rank_tuned(
    algorithm: Any,
    place: Place,
    lifted: Tree,
    *,
    steps: int,
    lr: float,
    tune: tuple[str, ...] = TUNABLE,
    seed: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> PerUser:
    """Metrics of every user after local steps of its client on its own history.

    Each step is one of plain SGD on the algorithm's loss over all the client holds,
    each item with what came before it as the history, and negatives drawn anew from
    what it does not hold. What is to be found is such an item like any other: leaving
    it out would tell the client what it is.

    Args:
        algorithm: `FedFM`, the source's.
        place: whose users.
        lifted: parameters with the vectors of the place's items.
        steps: how many; 0 is the zero-shot ranking.
        lr: of the steps.
        tune: groups of `TUNABLE` of which each client has its own copy.
        seed: of the negatives.
        advance: told how many users were ranked.
    """
    run = _tuned(algorithm, place.targets.num_items, place.protocol, tuple(tune))
    root = jax.random.key(seed)
    fixed = (lifted, place.frozen, place.data, jnp.int32(steps), jnp.float32(lr), root)
    return _in_blocks(functools.partial(run, *fixed), place.targets, advance)


def tune_client(
    recipe: Recipe, algorithm: FedFM, tune: tuple[str, ...], width: int
) -> Callable[..., Tree]:
    """One client's local steps.

    Args:
        recipe: of `lifted_recipe`.
        algorithm: the source's.
        tune: the groups that move.
        width: padded number of a client's interactions.

    Returns:
        `(shared, own, frozen, examples, steps, lr, key) -> own`.
    """
    assert recipe.local.draw is not None
    group = 1 + algorithm.negatives
    update = local_update(
        recipe.model,
        recipe.local.draw,
        (Phase(lambda h: optax.sgd(h["lr"]), names=tune),),
        batch_size=width * group,
        group=group,
    )

    def run(shared, own, frozen, examples, steps, lr, key):
        def step(i, own):
            params = Params(shared=shared, personal=own)
            key_ = jax.random.fold_in(key, i)
            return update(params, frozen, examples, {"lr": lr}, key_).personal

        return jax.lax.fori_loop(0, steps, step, own)

    return run


# Compiled once a catalog: parameters, rates and numbers of steps are arguments.
@functools.lru_cache(maxsize=8)
def _zero_shot(algorithm: FedFM, num_items: int, protocol: Protocol) -> Callable:
    @jax.jit
    def run(lifted, frozen, targets: Targets):
        model = lifted_recipe(algorithm, lifted, num_items).model
        params = Params(shared=lifted, personal={})

        def score(users, candidates):
            def one(user, candidates):
                return model.score(params, frozen, {"user": user}, candidates)

            axes = (0, None if candidates is None else 0)
            return jax.vmap(one, in_axes=axes)(users, candidates)

        return evaluate(score, targets, protocol, jax.random.key(0), _CHUNK)

    return run


@functools.lru_cache(maxsize=8)
def _tuned(
    algorithm: FedFM, num_items: int, protocol: Protocol, tune: tuple[str, ...]
) -> Callable:
    @jax.jit
    def run(lifted, frozen, data: ClientData, steps, lr, root, targets: Targets):
        recipe = lifted_recipe(algorithm, lifted, num_items, tune)
        train = tune_client(recipe, algorithm, tune, data.widths[0])
        shared = {name: part for name, part in lifted.items() if name not in tune}
        start = {name: lifted[name] for name in tune}

        def score(users, candidates):
            def one(user, candidates):
                key = keys.derive(root, keys.Purpose.EVALUATION, 2, user)
                examples = data.examples(user, 0)
                own = train(shared, start, frozen, examples, steps, lr, key)
                params = Params(shared=shared, personal=own)
                return recipe.model.score(params, frozen, {"user": user}, candidates)

            axes = (0, None if candidates is None else 0)
            return jax.vmap(one, in_axes=axes)(users, candidates)

        return evaluate(score, targets, protocol, jax.random.key(0), _TUNED_CHUNK)

    return run


def _in_blocks(
    run: Callable[[Targets], dict[str, Array]],
    targets: Targets,
    advance: Callable[[int], None],
) -> PerUser:
    """All users, so many a call: the last block repeats its last user."""
    columns: dict[str, list[np.ndarray]] = {}
    for block, count in _blocks(targets):
        for name, column in run(block).items():
            columns.setdefault(name, []).append(np.asarray(column)[:count])
        advance(count)
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def _blocks(targets: Targets) -> Iterator[tuple[Targets, int]]:
    number = targets.user.shape[0]
    size = min(_BLOCK, number)
    for first in range(0, number, size):
        at = np.arange(first, first + size)
        yield take_users(targets, np.minimum(at, number - 1)), min(size, number - first)
