"""Texts of different lengths, several end to end in a row (layer 0).

Titles are short and uneven: padded to the longest, most of a backbone's work would be
on padding. A catalog is packed once on the host (`plan`). The items of a client's batch
are known only inside the compiled program, which folds them into rows
(`batch_packing`).
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, static, struct
from fedjax_rec.core.backbone import Layout

_WIDTHS = range(32, 129, 8)
# Attention in a packed row costs `2 W D` multiplications a token, the linear maps cost
# `12 D^2`: for D around 400, a wider row has to save more padding than this.
_WIDTH_COST = 1 / 2400


@struct
class Lists:
    """Lists of different lengths, end to end in the order of their ids.

    Attributes:
        values: `[n + 1, ...]`, tokens or their hidden states; the last row is zero and
            belongs to no list. Padding reads it.
        offset: `[I]` int32, each list's first position.
        length: `[I]` int32.
    """

    values: Array
    offset: Array
    length: Array


@struct
class Plan:
    """Positions of lists in `R` rows of width `W`.

    Attributes:
        index: `[R, W]` int32 into `Lists.values`; padding points at its last row.
        layout: where lists lie in the rows.
        slots: `[I]` int32, each list's slot `row * G + segment - 1`; `R * G` for a list
            in no row.
        per_row: `G`, the most lists in a row.
    """

    index: Array
    layout: Layout
    slots: Array
    per_row: int = static()


def make_lists(lists: Sequence[np.ndarray]) -> Lists:
    """Lays `lists`, each `[T, ...]`, end to end.

    >>> lists = make_lists([np.array([5, 6]), np.array([7])])
    >>> lists.values.tolist(), lists.offset.tolist()
    ([5, 6, 7, 0], [0, 2])
    """
    first = np.asarray(lists[0]) if len(lists) else np.zeros(0, np.int32)
    values = np.concatenate([*lists, np.zeros((1, *first.shape[1:]), first.dtype)])
    return with_lengths(values, np.array([len(x) for x in lists], np.int64))


def with_lengths(values: np.ndarray, lengths: np.ndarray) -> Lists:
    """`Lists` of `values` `[n + 1, ...]`, already end to end, with `lengths` `[I]`.

    Raises:
        ValueError: the lengths do not add up to `n`.
    """
    if lengths.sum() + 1 != len(values):
        raise ValueError(
            f"{len(values)} values for lists of {lengths.sum()}: expected one value "
            "more than the lists have, the trailing zero"
        )
    return Lists(
        values=jnp.asarray(values),
        offset=jnp.asarray(_starts(lengths).astype(np.int32)),
        length=jnp.asarray(lengths.astype(np.int32)),
    )


def at_slots(vectors: Array, slots: Array) -> Array:
    """Gathers one vector a list `[P, ...]` from one a slot `[R, G, ...]`.

    Slots past the last one give zeros.
    """
    flat = vectors.reshape((-1, *vectors.shape[2:]))
    return flat.at[slots].get(mode="fill", fill_value=0)


def plan(
    lengths: np.ndarray, width: int | None = None, ids: np.ndarray | None = None
) -> Plan:
    """Packs lists into rows by best fit decreasing.

    Args:
        lengths: `[I]`, lengths of all lists.
        width: `W`, at least the longest list; by default a multiple of 8 in 32..128
            that wastes little, or the longest length if that is more.
        ids: `[P]`, the lists to pack, each once; by default all.

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
        cost = [_best_fit(size, w)[1] * w * (1 + w * _WIDTH_COST) for w in widths]
        width = widths[int(np.argmin(cost))]
    if longest > width:
        raise ValueError(f"a list of {longest} does not fit in rows of {width}")
    row, rows = _best_fit(size, width)
    order = np.argsort(row, kind="stable")
    chosen, size, row = chosen[order], size[order], row[order]
    counts = np.bincount(row, minlength=rows)
    per_row = int(counts.max(initial=1))
    slot = np.arange(len(row)) - np.repeat(_starts(counts), counts)
    in_row = _starts(size)
    in_row -= in_row[_starts(counts)[row]] if len(row) else 0
    # Token by token: its position in its list, its source and its destination.
    position = np.arange(size.sum()) - np.repeat(_starts(size), size)
    source = np.repeat(_starts(lengths)[chosen], size) + position
    destination = np.repeat(row * width + in_row, size) + position

    def rows_with(padding: int, values: np.ndarray) -> Array:
        flat = np.full(rows * width, padding, np.int32)
        flat[destination] = values
        return jnp.asarray(flat.reshape(rows, width))

    slots = np.full(len(lengths), rows * per_row, np.int32)
    slots[chosen] = row * per_row + slot
    return Plan(
        index=rows_with(int(lengths.sum()), source),
        layout=Layout(
            segment=rows_with(0, np.repeat(slot + 1, size)),
            position=rows_with(0, position),
        ),
        slots=jnp.asarray(slots),
        per_row=per_row,
    )


def _starts(lengths: np.ndarray) -> np.ndarray:
    """First position of each list, end to end."""
    return np.cumsum(lengths) - lengths


def _best_fit(size: np.ndarray, width: int) -> tuple[np.ndarray, int]:
    """Assigns lists to rows, all lists of one length at once.

    Args:
        size: `[P]`, descending.
        width: width of the rows.

    Returns:
        The row of each list `[P]`, and the number of rows.
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
            if short:  # the last row has room for more of this length
                left += short * length
                free[left] = np.append(free[left], taken[-1:])
    return row, rows
