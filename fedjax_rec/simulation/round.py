"""One round: chunks of clients under `vmap`, folded into one aggregate.

A cohort is sorted by size bucket. Each bucket is one loop over chunks of `V` clients,
with a trip count that is read on the device: any cohort runs in the one compiled
program, small clients are padded to small widths, and absent clients are not computed.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Params, Recipe, Senders
from fedjax_rec.core.keys import Purpose, derive
from fedjax_rec.core.precision import at_precision
from fedjax_rec.core.rounds import Cohort, FederatedAlgorithm, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.profiling import stages
from fedjax_rec.profiling.stages import all_staged, staged
from fedjax_rec.simulation import guard
from fedjax_rec.simulation.chunks import fold_clients
from fedjax_rec.simulation.messages import TRANSFORM, send, without_state

ROUND_KEY = "round_key"
"""Name under which `hparams` holds the key that all clients of a round share."""

_SUMS = ("examples", "clients", "rejected_clients", "up_bytes")


def client_key(root: Array, round_number: Array, client: Array) -> Array:
    """The key of a client in a round, independent of the rest of the cohort.

    Computed for a whole cohort at once: random bits are what XLA compiles slowest.
    """
    return derive(root, Purpose.CLIENT, round_number, client)


def round_hparams(hparams: Tree, root: Array, round_number: Array) -> dict[str, Any]:
    """The `hparams` that local training receives in a round."""
    return {**hparams, ROUND_KEY: derive(root, Purpose.CODEC, round_number)}


def train_client(recipe: Recipe, data: ClientData, bucket: int):
    """One client: `(shared, personal, frozen, hparams, row, key) -> ClientResult`."""

    def train(shared, personal, frozen, hparams, row, key):
        params = Params(shared=shared, personal=without_state(personal))
        examples = data.examples(row, bucket)
        return recipe.client_update(params, frozen, examples, hparams, key)

    return staged(stages.LOCAL_TRAINING, train)


def federated(
    recipe: Recipe,
    chunks: tuple[int, ...],
    *,
    lifted: bool = False,
    devices: str | None = None,
    batch_axis: str | None = None,
) -> FederatedAlgorithm:
    """Binds a recipe to its execution.

    Args:
        recipe: the system.
        chunks: `V` for each bucket, from `chunk_sizes`.
        lifted: clients train the table of all items' vectors, and their aggregate is
            pulled back through `model.lift`. Exact if each client takes one step of
            plain SGD on the shared parameters and the aggregate is linear: the gradient
            of a sum is then the sum of the gradients.
        devices: mesh axis that clients are dealt over. `round` then runs under
            `shard_map` on each device's own clients, and joins them in one all-reduce.
        batch_axis: as in `fold_clients`.

    Returns:
        Its `init` and `round`, pure and jittable. The metrics of a round hold the
        `rejected_clients` (see `guard`); `loss` is NaN once the system has diverged:
        every client of the round was rejected, or the new model is not finite.

    Raises:
        ValueError: `lifted`, and the aggregate is not linear.
    """
    if lifted and not recipe.aggregator.linear:
        raise ValueError(
            "lifted=True pulls the clients' aggregate back through the model, which is "
            "exact for a linear aggregate only, and this recipe's aggregator is not "
            "linear: use a mean or a sum, or lifted=False"
        )

    def init(key: Array) -> ServerState:
        shared = recipe.model.init(derive(key, Purpose.INIT)).shared
        optimizer = recipe.server_optimizer(recipe.hparams)
        return ServerState(
            shared=shared,
            optimizer=optimizer.init(shared),
            round=jnp.zeros((), jnp.int32),
            aggregator=recipe.aggregator.start(shared),
        )

    def one_round(state: ServerState, cohort: Cohort, data, frozen, hparams, key):
        aggregator = all_staged(stages.AGGREGATION, recipe.aggregator)
        lift = staged(stages.ENCODING, functools.partial(_lift, recipe, devices))
        shared, pull = state.shared, lambda delta: delta
        if lifted:
            shared, pull = lift(state.shared, frozen)
        acc = aggregator.init(shared, cohort.size or len(cohort.ids))
        acc = aggregator.begin(acc, state.aggregator)
        keys = jax.vmap(client_key, (None, None, 0))(key, state.round, cohort.ids)
        inputs = (data, frozen, round_hparams(hparams, key, state.round))
        visit = _make_visit(recipe, aggregator, shared, cohort, keys, *inputs)
        sums = _zero_sums(recipe, shared, cohort, keys, *inputs)
        acc, personal, sums = fold_clients(
            visit, (acc, cohort.personal, sums), cohort.rows, data, chunks, batch_axis
        )
        if devices is not None:
            acc, sums = jax.lax.psum((acc, sums), devices)
        delta, aggregator_state, info = aggregator.finish(acc, state.aggregator, shared)
        info = dict(info)
        rejected = info.pop("rejected_clients", 0)
        sums["clients"] -= rejected
        sums["rejected_clients"] += rejected
        state = _server_update(recipe, state, pull(delta), hparams)
        state = dataclasses.replace(state, aggregator=aggregator_state)
        metrics = {**_metrics(sums, state.shared), **info}
        return state, dataclasses.replace(cohort, personal=personal), metrics

    one_round = at_precision(recipe.precision, one_round)
    init = at_precision(recipe.precision, init)
    return FederatedAlgorithm(init, staged(stages.GATHERING, one_round))


def _metrics(sums: dict[str, Array], shared: Tree) -> dict[str, Array]:
    examples = jnp.maximum(sums["examples"], 1)
    metrics = {k: x if k in _SUMS else x / examples for k, x in sums.items()}
    lost = guard.diverged(sums["clients"], sums["rejected_clients"], shared)
    metrics["loss"] = jnp.where(lost, jnp.nan, metrics["loss"])
    return metrics


def _server_update(
    recipe: Recipe, state: ServerState, delta: Tree, hparams: Tree
) -> ServerState:
    """The state after the server optimizer's step along a dense delta."""
    # FedOpt (Reddi et al. 2021): the negated delta is the server's gradient.
    gradient = jax.tree.map(jnp.negative, delta)
    update = staged(stages.SERVER_UPDATE, recipe.server_optimizer(hparams).update)
    updates, optimizer = update(gradient, state.optimizer, state.shared)
    apply_updates = staged(stages.SERVER_UPDATE, optax.apply_updates)
    return dataclasses.replace(
        state,
        shared=apply_updates(state.shared, updates),
        optimizer=optimizer,
        round=state.round + 1,
    )


def _make_visit(recipe, aggregator, shared, cohort, keys, data, frozen, hparams):
    """Trains a chunk of clients and adds their messages, for `fold_clients`."""
    sending = staged(stages.SENDING, functools.partial(send, recipe))
    num_slots, cohort_size = len(cohort.ids), cohort.size or len(cohort.ids)

    def visit(carry, bucket, slots, rows):
        acc, personal, sums = carry
        train = train_client(recipe, data, bucket)
        states = personal.get(TRANSFORM, ())
        before = trees.take(without_state(personal), rows)
        chunk_keys = trees.take(keys, slots)
        result = jax.vmap(train, in_axes=(None, 0, None, None, 0, 0))(
            shared, before, frozen, hparams, rows, chunk_keys
        )
        ids = cohort.ids.at[slots].get(mode="fill", fill_value=-1)
        present = result.weight > 0
        result, states, sent, sound = sending(
            shared, states, rows, result, ids, chunk_keys, hparams[ROUND_KEY]
        )
        result = guard.guarded(result, sound, shared)
        weight = result.weight
        senders = Senders(
            slots=jnp.where(slots < num_slots, cohort.first + slots, cohort_size),
            ids=ids,
            loss=result.metrics["loss"],
            extras=result.extras,
        )
        acc = aggregator.update(acc, result.delta, weight, senders)
        trained = {name: personal[name] for name in result.personal}
        rows = guard.writable(rows, sound)
        personal = {**personal, **trees.put(trained, rows, result.personal)}
        if TRANSFORM in personal:
            personal = {**personal, TRANSFORM: states}
        metrics = {
            "examples": weight.sum(),
            "clients": (weight > 0).sum().astype(weight.dtype),
            "rejected_clients": (present & ~sound).sum().astype(weight.dtype),
            **{name: (x * weight).sum() for name, x in result.metrics.items()},
            **{name: x.sum() for name, x in sent.items()},
        }
        return acc, personal, jax.tree.map(jnp.add, sums, metrics)

    return visit


def _lift(recipe: Recipe, devices: str | None, shared: Tree, frozen: Tree):
    """The lifted parameters, and the map from their delta to the trained ones'."""
    if recipe.model.lift is None:
        raise ValueError("lifted=True needs a model with `lift`")
    lift = functools.partial(recipe.model.lift, axis=devices)
    lifted, transposed = jax.vjp(lambda s: lift(s, frozen), shared)
    replaced = [name for name in shared if name not in lifted]

    def pull(delta: Tree) -> Tree:
        (gradient,) = transposed(delta)
        if devices is None:
            return gradient
        # Each device holds the part of the items it encoded, times their number: the
        # transpose of a gather adds up the equal deltas of all of them.
        part = {name: gradient[name] for name in replaced}
        return {**gradient, **jax.lax.pmean(part, devices)}

    return lifted, pull


def _zero_sums(recipe, shared, cohort, keys, data, frozen, hparams):
    """Zeros for the metrics that `visit` adds up."""
    train = train_client(recipe, data, 0)
    personal = jax.tree.map(lambda x: x[0], cohort.personal)
    result = jax.eval_shape(
        train, shared, personal, frozen, hparams, cohort.rows[0], keys[0]
    )
    counted = recipe.transform is not None and recipe.transform.counted
    sent = ("up_bytes",) if counted else ()
    names = ("examples", "clients", "rejected_clients", *result.metrics, *sent)
    return {name: jnp.zeros((), result.weight.dtype) for name in names}
