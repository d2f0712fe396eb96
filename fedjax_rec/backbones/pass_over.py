"""One pass of frozen layers over a catalog, in packed rows."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from fedjax_rec.core import packing
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing import Lists

# `(weights, rows [R, W], layout, G) -> [R, W, D]` or `[R, G, D]`.
Step = Callable[[Tree, Array, Layout, int], Array]

# A CPU is busy with few rows, and its caches hold no more; an accelerator needs many.
_ROWS_PER_DEVICE = {"cpu": 32}
_MANY_ROWS = 512


def sweep(
    step: Step,
    weights: Tree,
    tokens: Lists,
    bounds: Sequence[tuple[int, int]],
    *,
    each: str,
    out: jax.ShapeDtypeStruct,
    rows_per_step: int | None = None,
    advance: Callable[[int], Any] = lambda texts: None,
) -> Iterator[np.ndarray]:
    """Runs `step` over ranges of texts, on all local devices.

    Args:
        step: of the backbone; compiled here, with the weights as an argument.
        weights: copied to every device.
        tokens: of all texts.
        bounds: first text of each range, and the one after its last.
        each: `"token"` or `"text"`: what `step` gives a vector for.
        out: shape and type of one vector.
        rows_per_step: packed rows of one call.
        advance: told how many texts are done since it was last told.

    Yields:
        For each range an array `[n, D]`, of its tokens or texts in their order.
    """
    devices = jax.local_devices()
    mesh = jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices)
    everywhere, split = PartitionSpec(), PartitionSpec("rows")
    weights = jax.device_put(weights, NamedSharding(mesh, everywhere))
    if rows_per_step is None:
        few = _ROWS_PER_DEVICE.get(devices[0].platform, _MANY_ROWS)
        rows_per_step = few * len(devices)

    @functools.cache
    def compiled(num_texts: int) -> Callable[[Tree, np.ndarray, Layout], Array]:
        # Every device runs rows of its own and has nothing to say to the others.
        return jax.jit(
            jax.shard_map(
                lambda weights, rows, layout: step(weights, rows, layout, num_texts),
                mesh=mesh,
                in_specs=(everywhere, split, split),
                out_specs=split,
                check_vma=False,
            )
        )

    lengths = np.asarray(tokens.length, np.int64)
    values = np.asarray(tokens.values)
    edges = np.append(0, np.cumsum(lengths))
    width = packing.plan(lengths).index.shape[1]  # the same in all ranges
    for first, last in bounds:
        text = np.append(values[edges[first] : edges[last]], values[-1:])
        plan = packing.plan(lengths[first:last], width)
        rows, index, segment, position, place = jax.tree.map(
            np.asarray,
            (text[plan.index], plan.index, *_arrays(plan.layout), plan.place),
        )
        # Rounded, so that ranges seldom differ: each G is a program of its own.
        num_texts = -(-plan.per_row // 4) * 4
        if each == "token":
            count, target = len(text) - 1, index
        else:
            count = last - first
            target = np.full((len(rows), num_texts), count)
            held = np.flatnonzero(place < len(rows) * plan.per_row)
            row, slot = np.divmod(place[held], plan.per_row)
            target[row, slot] = held
        # What padding gives is written to a last row, and left out with it.
        result = np.zeros((count + 1, *out.shape), out.dtype)
        function = functools.partial(compiled(num_texts), weights)
        size = min(rows_per_step, max(len(rows), 1)) + len(devices) - 1
        size -= size % len(devices)
        for at, block in _steps(function, rows, segment, position, size):
            result[target[at]] = block
            advance(int(segment[at].max(axis=1).sum()))
        yield result[:-1]


def _steps(
    function: Callable[[np.ndarray, Layout], Array],
    rows: np.ndarray,
    segment: np.ndarray,
    position: np.ndarray,
    size: int,
) -> Iterator[tuple[slice, np.ndarray]]:
    """Runs `size` rows a call; a call runs while the result before it is taken."""

    def piece(array: np.ndarray, start: int) -> Any:  # jit places it on the devices
        some = array[start : start + size]
        return np.pad(some, ((0, size - len(some)), (0, 0)))

    waiting: list[tuple[slice, Array]] = []
    for start in range(0, len(rows), size):
        layout = Layout(segment=piece(segment, start), position=piece(position, start))
        at = slice(start, min(start + size, len(rows)))
        waiting.append((at, function(piece(rows, start), layout)))
        if len(waiting) > 1:
            done, result = waiting.pop(0)
            yield done, np.asarray(result)[: done.stop - done.start]
    for done, result in waiting:
        yield done, np.asarray(result)[: done.stop - done.start]


def _arrays(layout: Layout) -> tuple[Array, Array]:
    return layout.segment, layout.position
