"""Experiments that run at once, in cells `[devices, seeds, settings]`.

`shard_map` runs the devices, without communication, and `vmap` seeds and settings.
Seeds have an axis of their own, so that values that depend on the seed only, such as
cohorts and negatives, are computed once for all settings.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.rounds import ServerState

SEEDS, DEVICES = "seeds", "devices"
"""Axes of the `vmap` over seeds, and of the mesh."""

EVERYWHERE, SPLIT = PartitionSpec(), PartitionSpec(DEVICES)


class Layout(NamedTuple):
    """The experiments that run at once.

    Experiments of one seed draw the same cohorts and negatives, so each row of settings
    has one seed, and draws once for all of them.

    Attributes:
        index: `[devices, seeds, settings]`, position of the experiment in each cell;
            padding repeats an experiment of its row.
        real: the same shape; `False` is padding.
    """

    index: np.ndarray
    real: np.ndarray


def arrange(
    seeds: Sequence[int], *, devices: int, most: int, seeds_at_once: bool
) -> list[Layout]:
    """Layouts of one shape for all experiments, to run one after another.

    Args:
        seeds: `[P]` seed of each experiment.
        devices: devices that share a layout.
        most: largest number of experiments on a device.
        seeds_at_once: a device runs several seeds side by side, which pays if one row
            of settings cannot fill it.

    Returns:
        As few layouts with as few padded cells as rows of one seed allow.

    >>> [x.index.tolist() for x in arrange(
    ...     [0, 0, 1, 1], devices=1, most=2, seeds_at_once=False)]
    [[[[0, 1]]], [[[2, 3]]]]
    """
    if min(devices, most) < 1:
        raise ValueError(f"devices={devices} and most={most} must be at least 1")
    by_seed: dict[int, list[int]] = {}
    for position, seed in enumerate(seeds):
        by_seed.setdefault(seed, []).append(position)

    def shape(width: int) -> tuple[int, int]:
        """Cells of all layouts, and rows of a layout on a device."""
        rows = sum(-(-len(group) // width) for group in by_seed.values())
        at_once = 1
        if seeds_at_once:
            at_once = max(1, min(most // width, -(-rows // devices)))
        layouts = -(-rows // (devices * at_once))
        return layouts * at_once * width, at_once

    widest = min(most, max(map(len, by_seed.values())))
    width = min(range(widest, 0, -1), key=lambda w: shape(w)[0])
    at_once = shape(width)[1]
    rows = [
        group[i : i + width]
        for group in by_seed.values()
        for i in range(0, len(group), width)
    ]
    layouts = []
    for i in range(0, len(rows), devices * at_once):
        present = rows[i : i + devices * at_once]
        # Absent rows repeat the first: the same shape needs no further program.
        filled = present + [present[0]] * (devices * at_once - len(present))
        index = np.array([(row * width)[:width] for row in filled])
        real = np.array([np.arange(width) < len(row) for row in filled])
        real[len(present) :] = False
        shape_ = (devices, at_once, width)
        layouts.append(Layout(index.reshape(shape_), real.reshape(shape_)))
    return layouts


def make_rounds(many: Callable, mesh: Mesh) -> Callable:
    """`(state, personal, (data, tables), frozen, hparams, keys, count)`, jitted."""

    def rounds(state, personal, fixed, frozen, hparams, key, count):
        data, tables = fixed
        # No slots: clients' rows are their ids.
        return many(state, personal, data, frozen, hparams, key, None, tables, count)

    axes, out = _state_of(0, None), (_state_of(0, None), 0, 0)
    settings = jax.vmap(rounds, (axes, 0, None, None, 0, None, None), out)
    seeds = jax.vmap(settings, (axes, 0, None, None, 0, 0, None), out, axis_name=SEEDS)

    def on_device(state, personal, data, frozen, hparams, keys, count):
        states, personal, hparams, keys = _drop_device(
            (without_round(state), personal, hparams, keys)
        )
        state = dataclasses.replace(states, round=state.round)
        state, personal, log = seeds(
            state, personal, data, frozen, hparams, keys, count
        )
        states, personal, log = _add_device((without_round(state), personal, log))
        return dataclasses.replace(states, round=state.round), personal, log

    state = _state_of(SPLIT, EVERYWHERE)
    specs = (state, SPLIT, EVERYWHERE, EVERYWHERE, SPLIT, SPLIT, EVERYWHERE)
    program = _on_devices(mesh, on_device, specs, (state, SPLIT, SPLIT))
    return jax.jit(program, donate_argnums=(0, 1))


def make_each(function: Callable, width: int, mesh: Mesh) -> Callable:
    """Calls a function for the cells `which[:count]` of each device, in turn.

    Args:
        function: `(state, personal, hparams, key, *inputs) -> tree`, for a single
            experiment.
        width: number of settings of a row.
        mesh: devices of the cells.

    Returns:
        `(state, personal, hparams, keys, which [devices, Q], count [devices],
        *inputs) -> tree [devices, Q, ...]`, jitted.
    """

    def on_device(state, personal, hparams, keys, which, count, *inputs):
        states, personal, hparams, keys, which, count = _drop_device(
            (without_round(state), personal, hparams, keys, which, count)
        )

        def call(i):
            row, column = which[i] // width, which[i] % width
            cell_state, cell_personal, scalars = jax.tree.map(
                lambda x: x[row, column], (states, personal, hparams)
            )
            cell_state = dataclasses.replace(cell_state, round=state.round)
            return function(cell_state, cell_personal, scalars, keys[row], *inputs)

        results = jax.tree.map(
            lambda x: jnp.zeros((which.shape[0], *x.shape), x.dtype),
            jax.eval_shape(call, 0),
        )

        def step(i, results):
            return jax.tree.map(lambda x, new: x.at[i].set(new), results, call(i))

        return _add_device(jax.lax.fori_loop(0, count, step, results))

    @jax.jit
    def program(state, personal, hparams, keys, which, count, *inputs):
        specs = (_state_of(SPLIT, EVERYWHERE), *[SPLIT] * 5)
        specs += (EVERYWHERE,) * len(inputs)
        return _on_devices(mesh, on_device, specs, SPLIT)(
            state, personal, hparams, keys, which, count, *inputs
        )

    return program


def _on_devices(mesh: Mesh, function: Callable, in_specs, out_specs) -> Callable:
    if mesh.size == 1:
        return function
    # Experiments neither read one another nor differentiate replicated arguments, so
    # the check of varying values is not needed.
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        check_vma=False,
    )


def _state_of(leaf: Any, number: Any) -> Any:
    """A state of axes or specs; the round's number is common to all experiments."""
    return ServerState(shared=leaf, optimizer=leaf, aggregator=leaf, round=number)


def without_round(state: ServerState) -> Any:
    """The part of a state that each experiment has of its own."""
    return dataclasses.replace(state, round=None)  # pyright: ignore[reportArgumentType]


def _drop_device(tree: Tree) -> Tree:
    """Without the axis of devices, which has length 1 on each of them."""
    return jax.tree.map(lambda x: x[0], tree)


def _add_device(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x[None], tree)
