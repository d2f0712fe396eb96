"""Rounds that draw their own cohort, many in one program."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.core import keys
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.rounds import (
    Cohort,
    FederatedAlgorithm,
    Participation,
    ServerState,
)
from fedjax_rec.profiling.stages import SAMPLING, staged


def draw_cohort(
    sample: Callable[..., Participation], tables: Tree, key: Array, number: Array
) -> Participation:
    """The cohort of a round by `Sampler.sample`, from the experiment's root key."""
    cohort_key = keys.derive(key, keys.Purpose.COHORT, number)
    return staged(SAMPLING, sample)(tables, cohort_key, number)


def local_rows(slots: Array | None, ids: Array, rows: int, axis: str | None) -> Array:
    """Rows `[C]` of clients on this device; clients of other devices are past the end.

    Args:
        slots: `[N]` the row of each client in the concatenated arrays of all devices;
            `None` if it is the client's id.
        ids: `[C]`, `N` if absent.
        rows: number of rows of this device.
        axis: the axis of the mesh.
    """
    if slots is None or axis is None:
        return ids
    slot = slots.at[ids].get(mode="fill", fill_value=jnp.iinfo(slots.dtype).max)
    row = slot - jax.lax.axis_index(axis) * rows
    return jnp.where((row >= 0) & (row < rows), row, rows)


def make_one_round(
    algorithm: FederatedAlgorithm,
    sample: Callable[..., Participation],
    axis: str | None = None,
):
    """Builds a round with its draw of a cohort.

    Args:
        algorithm: its `round` joins the devices of `axis`.
        sample: draws cohorts, see `Sampler`.
        axis: mesh axis that clients are dealt over.

    Returns:
        `(state, personal, data, frozen, hparams, key, slots, tables) -> (state,
        personal, metrics)`, pure.
    """

    def one_round(
        state: ServerState, personal: Tree, data, frozen, hparams, key, slots, tables
    ):
        drawn = draw_cohort(sample, tables, key, state.round)
        rows = local_rows(slots, drawn.ids, data.num_clients, axis)
        cohort = Cohort(ids=drawn.ids, rows=rows, personal=personal)
        state, cohort, metrics = algorithm.round(
            state, cohort, data, frozen, hparams, key
        )
        # Counts of real messages replace the sampler's expectations.
        return state, cohort.personal, {**drawn.metrics, **metrics}

    return one_round


def many_rounds(one_round, capacity: int):
    """Up to `capacity` rounds in a loop.

    Returns:
        `(state, personal, data, frozen, hparams, key, slots, tables, count) -> (state,
        personal, metrics)`. `count` is traced, so that one program serves any number of
        rounds; `metrics` are `[capacity]` arrays with `count` real values first.
    """

    # Under `jit` it is traced once, though its shapes are read beforehand.
    traced = jax.jit(one_round, inline=True)

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
