"""One round: chunks of clients under `vmap`, folded into one aggregate.

A cohort is sorted by size bucket. Each bucket is one loop over chunks of `V` clients,
with a trip count read on the device: any cohort runs in the one compiled program, small
clients are padded to small widths, and absent clients are never computed.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.clients.local import ROW_BASIS
from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import (
    Algorithm,
    Cohort,
    Params,
    Recipe,
    Senders,
    ServerState,
)
from fedjax_rec.core.keys import Purpose, derive
from fedjax_rec.data.clients import ClientData
from fedjax_rec.profiling import stages
from fedjax_rec.profiling.stages import all_staged, staged
from fedjax_rec.simulation.sending import CODEC, PROFILE, own, send_all

T = TypeVar("T")
_SUMS = ("examples", "clients", "up_bytes")


def chunk_sizes(
    data: ClientData, examples_per_chunk: int, cohort_size: int, shares: int = 1
) -> tuple[int, ...]:
    """`V` for each bucket: about `examples_per_chunk` padded examples.

    Chunks are evened out over the clients a cohort is expected to bring, so that the
    last one is not mostly empty: of all sizes that with the least work is taken, where
    twice or half the examples asked for count as 5 % more.

    Args:
        data: what the clients hold.
        examples_per_chunk: padded examples of one `vmap`.
        cohort_size: `C`.
        shares: devices over which a cohort is dealt.

    Returns:
        One `V` of at least 1 for each of `data.widths`.
    """
    sizes = np.bincount(np.asarray(data.buckets), minlength=len(data.widths) + 1)
    part = cohort_size / data.num_clients
    expected = np.ceil(np.ceil(sizes * part) / shares).astype(int)
    chunks = []
    for count, width in zip(expected, data.widths, strict=False):
        count = max(1, min(count, cohort_size))
        asked = max(1.0, examples_per_chunk / width)
        v = np.arange(1, count + 1)
        work = -(-count // v) * v * (1 + 0.05 * np.abs(np.log2(v / asked)))
        chunks.append(int(v[np.argmin(work)]))
    return tuple(chunks)


def fold_clients(
    visit: Callable[[T, int, Array, Array], T],
    carry: T,
    rows: Array,
    data: ClientData,
    chunks: tuple[int, ...],
    points: str | None = None,
) -> T:
    """Folds `visit` over a cohort, chunk by chunk, one loop for each bucket.

    Args:
        visit: `(carry, bucket, slots [V], rows [V]) -> carry`. `slots` are positions in
            `rows`; where a chunk is not full, slots are `C` and rows past the end.
        carry: donated from step to step, so writes into it are in place.
        rows: `[C]` int32, of `data`; rows past its end are absent.
        data: tells each client's bucket.
        chunks: `V` for each bucket.
        points: name of the axis of an enclosing `vmap` over experiments. Its loops
            then run equally often: with a trip count for each, `vmap` would copy
            every carry at every step.

    Returns:
        The last carry.
    """
    n, c = data.num_clients, rows.shape[0]
    num_buckets = len(data.widths)
    bucket = data.buckets.at[rows].get(mode="fill", fill_value=num_buckets)
    order = jnp.argsort(bucket).astype(jnp.int32)
    counts = jnp.zeros(num_buckets + 1, jnp.int32).at[bucket].add(1)
    firsts = jnp.cumsum(counts) - counts
    for g in range(num_buckets):
        v, first, count = chunks[g], firsts[g], counts[g]

        def step(i, carry, g=g, v=v, first=first, count=count):
            within = i * v + jnp.arange(v, dtype=jnp.int32)
            present = within < count
            at = order.at[first + within].get(mode="clip")
            slots = jnp.where(present, at, c)
            chunk_rows = rows.at[slots].get(mode="fill", fill_value=n)
            return visit(carry, g, slots, chunk_rows)

        trips = (count + v - 1) // v
        if points is not None:
            trips = jax.lax.pmax(trips, points)
        carry = jax.lax.fori_loop(0, trips, step, carry)
    return carry


def client_key(root: Array, round_number: Array, client: Array) -> Array:
    """The key of one client in one round, whoever else takes part.

    Computed for a whole cohort at once: random bits are what XLA compiles slowest.
    """
    return derive(root, Purpose.CLIENT, round_number, client)


def train_client(recipe: Recipe, data: ClientData, bucket: int):
    """One client: `(shared, personal, frozen, hparams, row, key) -> ClientResult`."""

    def train(shared, personal, frozen, hparams, row, key):
        params = Params(shared=shared, personal=own(personal))
        examples = data.examples(row, bucket)
        return recipe.client_update(params, frozen, examples, hparams, key)

    return staged(stages.LOCAL_TRAINING, train)


def make_algorithm(
    recipe: Recipe,
    chunks: tuple[int, ...],
    *,
    devices: str | None = None,
    points: str | None = None,
) -> Algorithm:
    """Binds a recipe to its execution.

    Args:
        recipe: the system.
        chunks: `V` for each bucket, from `chunk_sizes`.
        devices: the mesh axis over which clients are spread; `round` then runs under
            `shard_map` on each device's own clients, and joins them in one all-reduce.
        points: as in `fold_clients`.

    Returns:
        Its `init` and `round`, pure and jittable.

    Raises:
        ValueError: the recipe is lifted, and its aggregate is not linear.
    """
    if recipe.lifted and not recipe.aggregator.linear:
        raise ValueError(
            "a lifted recipe trains the vectors of all items and pulls the clients' "
            "aggregate back through the model, which is exact for a linear aggregate "
            "alone, and this recipe's aggregator is not linear: take a mean or a sum, "
            "or build the recipe with lifted=False"
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

    def one_round(
        state: ServerState,
        cohort: Cohort,
        data: ClientData,
        frozen: Tree,
        hparams: Tree,
        key: Array,
    ) -> tuple[ServerState, Cohort, dict[str, Array]]:
        aggregator = all_staged(stages.AGGREGATION, recipe.aggregator)
        lifted = staged(stages.ENCODING, _lifted)
        sending = staged(stages.SENDING, functools.partial(send_all, recipe))
        shared, pull = lifted(recipe, state.shared, frozen, devices)
        keys = jax.vmap(client_key, (None, None, 0))(key, state.round, cohort.ids)
        round_key = derive(key, Purpose.CODEC, state.round)
        local = dict(hparams)
        if recipe.row_basis is not None:
            local[ROW_BASIS] = recipe.row_basis(round_key)

        def visit(carry, bucket, slots, rows):
            acc, personal, sums = carry
            train = train_client(recipe, data, bucket)
            states = personal.get(CODEC, ())
            own_parts = {n: part for n, part in personal.items() if n != CODEC}
            before, some = trees.take(own_parts, rows), trees.take(keys, slots)
            result = jax.vmap(train, in_axes=(None, 0, None, None, 0, 0))(
                shared, before, frozen, local, rows, some
            )
            ids = cohort.ids.at[slots].get(mode="fill", fill_value=-1)
            result, states, told = sending(
                shared, states, rows, result, ids, some, round_key
            )
            weight = result.weight
            senders = Senders(
                slots=jnp.where(slots < c, cohort.first + slots, size),
                ids=ids,
                loss=result.metrics["loss"],
                profile=(
                    before.get(PROFILE) if result.profile is None else result.profile
                ),
            )
            acc = aggregator.update(acc, result.delta, weight, senders)
            trained = {n: personal[n] for n in result.personal}
            personal = {**personal, **trees.put(trained, rows, result.personal)}
            if CODEC in personal:
                personal = {**personal, CODEC: states}
            told = {
                "examples": weight.sum(),
                "clients": (weight > 0).sum().astype(weight.dtype),
                **{k: (x * weight).sum() for k, x in result.metrics.items()},
                **{k: x.sum() for k, x in told.items()},
            }
            return acc, personal, jax.tree.map(jnp.add, sums, told)

        sums = _zero_sums(recipe, shared, cohort, data, frozen, local, keys[0])
        c, size = len(cohort.ids), cohort.size or len(cohort.ids)
        acc = aggregator.begin(aggregator.init(shared, size), state.aggregator)
        carry = (acc, cohort.personal, sums)
        acc, personal, sums = fold_clients(
            visit, carry, cohort.rows, data, chunks, points
        )
        if devices is not None:
            acc, sums = jax.lax.psum((acc, sums), devices)
        delta, kept, info = aggregator.finish(acc, state.aggregator, shared)
        # FedOpt (Reddi et al. 2021): the negated delta is the server's gradient.
        gradient = jax.tree.map(jnp.negative, pull(delta))
        server = recipe.server_optimizer(hparams)
        updates, optimizer = staged(stages.SERVER_UPDATE, server.update)(
            gradient, state.optimizer, state.shared
        )
        apply_updates = staged(stages.SERVER_UPDATE, optax.apply_updates)
        new = ServerState(
            shared=apply_updates(state.shared, updates),
            optimizer=optimizer,
            round=state.round + 1,
            aggregator=kept,
        )
        examples = sums["examples"]
        metrics = {
            k: x if k in _SUMS else x / jnp.maximum(examples, 1)
            for k, x in sums.items()
        }
        cohort = dataclasses.replace(cohort, personal=personal)
        return new, cohort, {**metrics, **info}

    return Algorithm(init, staged(stages.GATHERING, one_round))


def _lifted(recipe: Recipe, shared: Tree, frozen: Tree, devices: str | None):
    """What clients train on, and the way of its delta back to what is trained."""
    if not recipe.lifted or recipe.model.lift is None:
        return shared, lambda delta: delta
    lift = functools.partial(recipe.model.lift, axis=devices)
    lifted, transposed = jax.vjp(lambda s: lift(s, frozen), shared)
    behind = [name for name in shared if name not in lifted]

    def pull(delta: Tree) -> Tree:
        (back,) = transposed(delta)
        if devices is None:
            return back
        # Each device holds the part of the items it encoded, times their number: the
        # transpose of a gather adds up the equal deltas of all of them.
        part = {name: back[name] for name in behind}
        return {**back, **jax.lax.pmean(part, devices)}

    return lifted, pull


def _zero_sums(recipe, shared, cohort, data, frozen, hparams, key):
    train = train_client(recipe, data, 0)
    personal = jax.tree.map(lambda x: x[0], cohort.personal)
    result = jax.eval_shape(
        train, shared, personal, frozen, hparams, cohort.rows[0], key
    )
    sent = () if recipe.codec is None else ("up_bytes",)
    names = ("examples", "clients", *result.metrics, *sent)
    return {name: jnp.zeros((), result.weight.dtype) for name in names}
