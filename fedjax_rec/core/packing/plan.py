"""Packing a catalog into rows, once, on the host."""

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, static, struct
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing.lists import Lists, starts

_WIDTHS = range(32, 129, 8)
# Attention in a packed row costs `2 W D` multiplications a token beside `12 D^2` of
# the linear maps: a wider row has to save more padding than this, for D around 400.
_WIDTH_COST = 1 / 2400


@struct
class Plan:
    """Where each list lies in `R` rows of `W`, decided once on the host.

    Attributes:
        index: `[R, W]` int32 into `Lists.values`; padding points at its last row.
        layout: of the rows.
        place: `[I]` int32, each list's slot `row * G + segment - 1`; `R * G` where the
            list is in no row.
        per_row: `G`, most lists in a row.
    """

    index: Array
    layout: Layout
    place: Array
    per_row: int = static()


def plan(
    lengths: np.ndarray, width: int | None = None, ids: np.ndarray | None = None
) -> Plan:
    """Packs lists into as few rows as best fit decreasing finds.

    Args:
        lengths: `[I]` of all lists.
        width: `W`, at least the longest list; by default a multiple of 8 in 32..128
            that wastes little, or the longest length where that is more.
        ids: `[P]` the lists to pack, each once; by default all.

    Returns:
        The plan. Lists that are empty or not in `ids` are in no row.

    Raises:
        ValueError: a list is longer than `width`.
    """
    lengths = np.asarray(lengths, np.int64)
    chosen = np.arange(len(lengths)) if ids is None else np.asarray(ids, np.int64)
    chosen = chosen[lengths[chosen] > 0]
    chosen = chosen[np.argsort(-lengths[chosen], kind="stable")]
    size = lengths[chosen]
    longest = int(size[0]) if len(size) else 1
    if width is None:
        widths = [w for w in _WIDTHS if w >= longest] or [longest]
        cost = [_rows_needed(size, w) * w * (1 + w * _WIDTH_COST) for w in widths]
        width = widths[int(np.argmin(cost))]
    if longest > width:
        raise ValueError(f"a list of {longest} does not fit in rows of {width}")
    row, rows = _best_fit(size, width)
    order = np.argsort(row, kind="stable")
    chosen, size, row = chosen[order], size[order], row[order]
    counts = np.bincount(row, minlength=rows)
    per_row = int(counts.max(initial=1))
    slot = np.arange(len(row)) - np.repeat(starts(counts), counts)
    in_row = starts(size)
    in_row -= in_row[starts(counts)[row]] if len(row) else 0
    # Now token by token: where it is read, and where it goes.
    position = np.arange(size.sum()) - np.repeat(starts(size), size)
    to = np.repeat(row * width + in_row, size) + position

    def rows_with(padding: int, values: np.ndarray) -> Array:
        flat = np.full(rows * width, padding, np.int32)
        flat[to] = values
        return jnp.asarray(flat.reshape(rows, width))

    place = np.full(len(lengths), rows * per_row, np.int32)
    place[chosen] = row * per_row + slot
    begin = starts(lengths)[chosen]
    return Plan(
        index=rows_with(int(lengths.sum()), np.repeat(begin, size) + position),
        layout=Layout(
            segment=rows_with(0, np.repeat(slot + 1, size)),
            position=rows_with(0, position),
        ),
        place=jnp.asarray(place),
        per_row=per_row,
    )


def rows_of(lists: Lists, plan: Plan) -> Array:
    """The planned rows `[R, W, ...]`; padding is zero."""
    return lists.values[plan.index]


def _rows_needed(size: np.ndarray, width: int) -> int:
    return _best_fit(size, width)[1]


def _best_fit(size: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """The row of each list, all lists of a length at once.

    Args:
        size: `[P]`, descending.
        width: of the rows.

    Returns:
        `[P]` rows, and how many there are.
    """
    row = np.empty(len(size), np.int64)
    free: list[np.ndarray] = [np.zeros(0, np.int64) for _ in range(width + 1)]
    rows = done = 0
    values, counts = np.unique(size, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = done + count
        for space in range(length, width + 1):  # the tightest rows first
            if done == end:
                break
            fit = space // length
            need = -(-(end - done) // fit)
            if space == width and need > len(free[width]):
                free[width] = np.arange(rows, rows + need)
                rows += need
            taken, free[space] = free[space][:need], free[space][need:]
            if not len(taken):
                continue
            filled = np.repeat(taken, fit)[: end - done]
            row[done : done + len(filled)] = filled
            done += len(filled)
            left = space - fit * length
            short = len(taken) * fit - len(filled)
            free[left] = np.append(free[left], taken[: len(taken) - (short > 0)])
            if short:  # the last row is not full of this length
                left += short * length
                free[left] = np.append(free[left], taken[-1:])
    return row, rows
