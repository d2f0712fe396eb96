"""What every client keeps between rounds, and many rounds in one program."""

import jax
import jax.numpy as jnp

from fedjax_rec import trees
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation.sampling import Sampler
from fedjax_rec.types import Algorithm, Array, Cohort, Recipe, ServerState, Tree


def initial_personal(recipe: Recipe, key: Array, num_clients: int) -> Tree:
    """Personal parameters `[N, ...]` before the first round.

    Args:
        recipe: says whether clients start from common values or from their own.
        key: the experiment's root key.
        num_clients: `N`.

    Returns:
        A tree of device arrays.
    """
    key = trees.derive(key, trees.Purpose.INIT)
    if recipe.common_start:
        one = recipe.model.init(key).personal
        return jax.tree.map(lambda x: jnp.tile(x, (num_clients,) + (1,) * x.ndim), one)

    def one_client(client: Array) -> Tree:
        return recipe.model.init(jax.random.fold_in(key, client)).personal

    return jax.jit(jax.vmap(one_client))(jnp.arange(num_clients))


def make_run_rounds(algorithm: Algorithm, sampler: Sampler, capacity: int):
    """`make_rounds`, jitted, with state and personal donated."""
    return jax.jit(make_rounds(algorithm, sampler, capacity), donate_argnums=(0, 1))


def make_rounds(algorithm: Algorithm, sampler: Sampler, capacity: int):
    """Builds `run_rounds`, up to `capacity` rounds as one program.

    Returns:
        `(state, personal, data, frozen, hparams, key, count) -> (state, personal,
        metrics)`, pure. `count` is traced, so one compilation serves any number of
        rounds; `metrics` are `[capacity]` arrays of which the first `count` are real.
    """

    def one(state: ServerState, personal: Tree, data, frozen, hparams, key):
        cohort_key = trees.derive(key, trees.Purpose.COHORT, state.round)
        ids = sampler(cohort_key, state.round).ids
        cohort = Cohort(ids=ids, personal=trees.take(personal, ids))
        state, cohort, metrics = algorithm.round(
            state, cohort, data, frozen, hparams, key
        )
        return state, trees.put(personal, cohort.ids, cohort.personal), metrics

    def run_rounds(
        state: ServerState,
        personal: Tree,
        data: ClientData,
        frozen: Tree,
        hparams: Tree,
        key: Array,
        count: Array,
    ):
        shapes = jax.eval_shape(one, state, personal, data, frozen, hparams, key)[2]
        log = jax.tree.map(lambda x: jnp.zeros(capacity, x.dtype), shapes)

        def step(i, carry):
            state, personal, log = carry
            state, personal, metrics = one(state, personal, data, frozen, hparams, key)
            log = jax.tree.map(lambda column, x: column.at[i].set(x), log, metrics)
            return state, personal, log

        return jax.lax.fori_loop(0, count, step, (state, personal, log))

    return run_rounds
