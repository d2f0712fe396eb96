"""One pass of frozen layers over the texts of a catalog, in packed rows."""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing import Lists

# `(weights, rows [R, W], layout, G) -> [R, W, D]` or `[R, G, D]`.
Step = Callable[[Tree, Array, Layout, int], Array]
_Rows = Callable[[np.ndarray, Layout], Array]

# Few rows keep a CPU busy and fit in its caches; an accelerator needs many.
_ROWS_PER_DEVICE = {"cpu": 32}
_MANY_ROWS = 512


def pass_over(
    step: Step,
    weights: Tree,
    tokens: Lists,
    bounds: Sequence[tuple[int, int]],
    *,
    each: str,
    out: jax.ShapeDtypeStruct,
    rows_per_step: int | None = None,
    advance: Callable[[int], object] = lambda texts: None,
) -> Iterator[np.ndarray]:
    """Runs `step` over ranges of texts, on all local devices.

    Args:
        step: function of the backbone, compiled here with the weights as an argument.
        weights: array tree, copied to every device.
        tokens: tokens of all texts.
        bounds: first text of each range, and the one after its last.
        each: `"token"` or `"text"`, the unit that `step` gives a vector for.
        out: shape and type of one vector.
        rows_per_step: packed rows of one call.
        advance: called with the number of texts completed since the last call.

    Yields:
        For each range an array `[n, D]`, in the order of its tokens or texts.
    """
    devices = jax.local_devices()
    compiled = _compiled(step, weights, devices)
    if rows_per_step is None:
        per_device = _ROWS_PER_DEVICE.get(devices[0].platform, _MANY_ROWS)
        rows_per_step = per_device * len(devices)
    lengths = np.asarray(tokens.length, np.int64)
    values = np.asarray(tokens.values)
    edges = np.append(0, np.cumsum(lengths))
    width = packing.plan(lengths).index.shape[1]  # the same in all ranges
    for first, last in bounds:
        text = np.append(values[edges[first] : edges[last]], values[-1:])
        plan = jax.tree.map(np.asarray, packing.plan(lengths[first:last], width))
        # Rounded up, so that ranges seldom differ: each G compiles a program.
        num_texts = -(-plan.per_row // 4) * 4
        if each == "token":
            count, target = len(text) - 1, plan.index
        else:
            count, target = last - first, _texts_of_slots(plan, num_texts)
        # Padding is written to an extra last row, which is then dropped.
        result = np.zeros((count + 1, *out.shape), out.dtype)
        size = min(rows_per_step, max(len(plan.index), 1)) + len(devices) - 1
        size -= size % len(devices)
        inputs = text[plan.index], plan.layout
        for block, vectors in _blocks(compiled(num_texts), inputs, size):
            result[target[block]] = vectors
            advance(int(plan.layout.segment[block].max(axis=1).sum()))
        yield result[:-1]


def _compiled(step: Step, weights: Tree, devices: list) -> Callable[[int], _Rows]:
    """`step` on rows that are split among devices, for a number of texts a row."""
    mesh = jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices)
    everywhere, split = PartitionSpec(), PartitionSpec("rows")
    weights = jax.device_put(weights, NamedSharding(mesh, everywhere))

    @functools.cache
    def compiled(num_texts: int) -> _Rows:
        function = jax.shard_map(  # without communication between devices
            lambda weights, rows, layout: step(weights, rows, layout, num_texts),
            mesh=mesh,
            in_specs=(everywhere, split, split),
            out_specs=split,
            check_vma=False,
        )
        return functools.partial(jax.jit(function), weights)

    return compiled


def _texts_of_slots(plan: packing.Plan, num_texts: int) -> np.ndarray:
    """Text in each slot of the rows, `[R, G]`; an empty slot holds their number."""
    rows = len(plan.index)
    slots = np.full((rows, num_texts), len(plan.slots))
    texts = np.flatnonzero(plan.slots < rows * plan.per_row)
    row, slot = np.divmod(np.asarray(plan.slots)[texts], plan.per_row)
    slots[row, slot] = texts
    return slots


def _blocks(
    function: _Rows, inputs: tuple[np.ndarray, Layout], size: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Calls `function` on `size` rows at a time, one call ahead of the result read."""
    count = len(inputs[0])
    waiting: list[tuple[slice, Array]] = []

    def call(start: int) -> Array:
        def padded(x: np.ndarray) -> np.ndarray:  # on the host; jit places it
            return np.pad(x[start : start + size], ((0, missing), (0, 0)))

        missing = max(0, start + size - count)
        return function(*jax.tree.map(padded, inputs))

    def read() -> tuple[slice, np.ndarray]:
        block, result = waiting.pop(0)
        return block, np.asarray(result)[: block.stop - block.start]

    for start in range(0, count, size):
        waiting.append((slice(start, min(start + size, count)), call(start)))
        if len(waiting) > 1:
            yield read()
    while waiting:
        yield read()
