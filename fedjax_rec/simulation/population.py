"""What every client keeps between rounds, and many rounds in one program."""

from functools import partial

import jax
import jax.numpy as jnp

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.rounds import Cohort, FederatedAlgorithm, Sampler, ServerState
from fedjax_rec.data.clients import ClientData
from fedjax_rec.profiling.stages import SAMPLING, staged
from fedjax_rec.simulation.mesh import (
    CLIENTS,
    DEALT,
    EVERYWHERE,
    client_specs,
    run_dealt,
)
from fedjax_rec.simulation.messages import initial_state


def initial_personal(recipe: Recipe, key: Array, clients: Array | int) -> Tree:
    """Personal parameters `[n, ...]` before the first round.

    Args:
        recipe: says whether clients start from common values or from their own.
        key: the experiment's root key.
        clients: ids `[n]`, or `N` for all of them.

    Returns:
        A tree of device arrays.
    """
    key = keys.derive(key, keys.Purpose.INIT)
    ids = jnp.arange(clients) if isinstance(clients, int) else clients

    def start(key: Array) -> Tree:
        params = recipe.model.init(key)
        return {**params.personal, **initial_state(recipe, params.shared)}

    constants = {
        name: jnp.asarray(values).at[ids].get(mode="clip")
        for name, values in (recipe.constants or {}).items()
    }
    if recipe.model.common_start:
        one = start(key)
        all_ = jax.tree.map(lambda x: jnp.tile(x, (len(ids),) + (1,) * x.ndim), one)
        return {**all_, **constants}

    def one_client(client: Array) -> Tree:
        return start(jax.random.fold_in(key, client))

    return {**jax.jit(jax.vmap(one_client))(ids), **constants}


def rows_here(slots: Array | None, ids: Array, rows: int, axis: str | None) -> Array:
    """Rows `[C]` of clients on this device; those that lie elsewhere are past the end.

    Args:
        slots: `[N]` the row of each client in the arrays of all devices, one after
            another; `None` is their ids.
        ids: `[C]`, absent ones `N`.
        rows: how many this device holds.
        axis: of the mesh.
    """
    if slots is None or axis is None:
        return ids
    slot = slots.at[ids].get(mode="fill", fill_value=jnp.iinfo(slots.dtype).max)
    row = slot - jax.lax.axis_index(axis) * rows
    return jnp.where((row >= 0) & (row < rows), row, rows)


def make_one_round(
    algorithm: FederatedAlgorithm, sampler: Sampler, axis: str | None = None
):
    """`(state, personal, data, frozen, hparams, key, slots, tables)` to the next ones.

    Args:
        algorithm: its `round` joins the devices of `axis`.
        sampler: who takes part.
        axis: of the mesh, where clients are dealt over one.

    Returns:
        A pure function that returns `(state, personal, metrics)`.
    """

    def one(
        state: ServerState, personal: Tree, data, frozen, hparams, key, slots, tables
    ):
        cohort_key = keys.derive(key, keys.Purpose.COHORT, state.round)
        sample = staged(SAMPLING, sampler.sample)
        drawn = sample(tables, cohort_key, state.round)
        rows = rows_here(slots, drawn.ids, data.num_clients, axis)
        cohort = Cohort(ids=drawn.ids, rows=rows, personal=personal)
        state, cohort, metrics = algorithm.round(
            state, cohort, data, frozen, hparams, key
        )
        # What is counted of real messages is better than what was expected of them.
        return state, cohort.personal, {**drawn.metrics, **metrics}

    return one


def many_rounds(one, capacity: int):
    """Up to `capacity` rounds of `one` in a loop.

    Returns:
        `(state, personal, data, frozen, hparams, key, slots, tables, count) -> (state,
        personal, metrics)`; `count` is traced, so one compilation serves any number of
        rounds, and `metrics` are `[capacity]` arrays of which the first `count` are
        real.
    """

    # Under `jit` it is traced once, though its shapes are asked for beforehand.
    traced = jax.jit(one, inline=True)

    def run(state, personal, data, frozen, hparams, key, slots, tables, count):
        fixed = (data, frozen, hparams, key, slots, tables)
        shapes = jax.eval_shape(traced, state, personal, *fixed)[2]
        log = jax.tree.map(lambda x: jnp.zeros(capacity, x.dtype), shapes)

        def step(i, carry):
            state, personal, log = carry
            state, personal, metrics = traced(state, personal, *fixed)
            log = jax.tree.map(lambda column, x: column.at[i].set(x), log, metrics)
            return state, personal, log

        return jax.lax.fori_loop(0, count, step, (state, personal, log))

    return run


def make_run_rounds(
    algorithm: FederatedAlgorithm,
    sampler: Sampler,
    capacity: int,
    mesh: jax.sharding.Mesh | None = None,
):
    """Builds `run_rounds`, `many_rounds` as a program.

    Args:
        algorithm: made for the axis `clients` where there is a mesh.
        sampler: who takes part.
        capacity: most rounds of a call.
        mesh: over which personal state and clients' data are dealt.

    Returns:
        As `many_rounds`, jitted, with state and personal donated.
    """
    one = make_one_round(algorithm, sampler, None if mesh is None else CLIENTS)
    run = many_rounds(one, capacity)

    @partial(jax.jit, donate_argnums=(0, 1))
    def run_rounds(state, personal, data: ClientData, *rest):
        if mesh is None:
            return run(state, personal, data, *rest)
        whole = (EVERYWHERE,) * len(rest)
        return run_dealt(
            run,
            mesh,
            (EVERYWHERE, DEALT, client_specs(data), *whole),
            (EVERYWHERE, DEALT, EVERYWHERE),
        )(state, personal, data, *rest)

    return run_rounds
