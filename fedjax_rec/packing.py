"""Texts of different lengths, several end to end in a row (layer 0).

Titles are short and uneven: padded to the longest, most of what a backbone computes is
padding. A catalog is packed once on the host (`plan`); a client's batch, whose items
are known only inside the compiled program, is folded into rows there (`fold`).
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.types import Array, Layout, static, struct

_WIDTHS = range(32, 129, 8)
# Attention in a packed row costs `2 W D` multiplications a token beside `12 D^2` of
# the linear maps: a wider row has to save more padding than this, for D around 400.
_WIDTH_COST = 1 / 2400


@struct
class Lists:
    """Lists of different lengths, end to end in the order of their ids.

    Attributes:
        values: `[n + 1, ...]`: tokens, or their hidden states; the last row is zero and
            belongs to no list, so that padding has something to read.
        offset: `[I]` int32, each list's first position.
        length: `[I]` int32.
    """

    values: Array
    offset: Array
    length: Array


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
    """`Lists` of `values` `[n + 1, ...]`, already end to end, with `lengths` `[I]`."""
    if lengths.sum() + 1 != len(values):
        raise ValueError(
            f"{len(values)} values for lists of {lengths.sum()}: there has to be one "
            "value more, the trailing zero"
        )
    return Lists(
        values=jnp.asarray(values),
        offset=jnp.asarray(_starts(lengths).astype(np.int32)),
        length=jnp.asarray(lengths.astype(np.int32)),
    )


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
    slot = np.arange(len(row)) - np.repeat(_starts(counts), counts)
    in_row = _starts(size)
    in_row -= in_row[_starts(counts)[row]] if len(row) else 0
    # Now token by token: where it is read, and where it goes.
    position = np.arange(size.sum()) - np.repeat(_starts(size), size)
    to = np.repeat(row * width + in_row, size) + position

    def rows_with(padding: int, values: np.ndarray) -> Array:
        flat = np.full(rows * width, padding, np.int32)
        flat[to] = values
        return jnp.asarray(flat.reshape(rows, width))

    place = np.full(len(lengths), rows * per_row, np.int32)
    place[chosen] = row * per_row + slot
    starts = _starts(lengths)[chosen]
    return Plan(
        index=rows_with(int(lengths.sum()), np.repeat(starts, size) + position),
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


def at_places(vectors: Array, place: Array) -> Array:
    """From `[R, G, ...]`, a vector a slot, to one a list `[P, ...]`; none is zero."""
    flat = vectors.reshape((-1, *vectors.shape[2:]))
    return flat.at[place].get(mode="fill", fill_value=0)


def fold(
    lists: Lists, ids: Array, texts_per_row: int, width: int
) -> tuple[Array, Layout, Array, Array]:
    """Packs a batch of lists inside a compiled program.

    Sorted by length, they are dealt to the rows in snake order, which evens the rows'
    sums out: row 0 gets ranks 0, 2R - 1, 2R, ...

    Args:
        lists: of the catalog.
        ids: `[P]` int32, repeated or not; those past the end are empty.
        texts_per_row: `G`.
        width: `W`.

    Returns:
        `index` `[R, W]` into `lists.values` and the layout, for `R = ceil(P / G)`
        rows; `place` `[P]`, each one's slot `row * G + segment - 1`; and whether every
        row holds all of its texts (scalar bool). Where not, they are cut off.
    """
    (count,) = ids.shape
    num_lists, none = lists.length.shape[0], lists.values.shape[0] - 1
    rows = -(-count // texts_per_row)
    at = jnp.clip(ids, 0, num_lists - 1)
    length = jnp.where(ids < num_lists, lists.length[at], 0)
    order = _longest_first(length)
    # Which rank each slot is dealt; ranks past the batch are empty texts.
    deal = np.arange(rows * texts_per_row).reshape(texts_per_row, rows)
    deal[1::2] = deal[1::2, ::-1]
    deal = deal.T

    def dealt(values: Array) -> Array:
        empty = jnp.zeros(deal.size - count, jnp.int32)
        return jnp.concatenate([values[order].astype(jnp.int32), empty])[deal]

    end = jnp.cumsum(dealt(length), axis=1, dtype=jnp.int32)
    start = end - dealt(length)
    column = jnp.arange(width, dtype=jnp.int32)[None]
    before = (column[:, :, None] >= end[:, None, :]).sum(-1, dtype=jnp.int32)
    inside = before < texts_per_row
    slot = jnp.minimum(before, texts_per_row - 1)

    def of_slot(values: Array) -> Array:
        return jnp.take_along_axis(values, slot, axis=1)

    index = column + of_slot(dealt(lists.offset[at]) - start)
    layout = Layout(
        segment=jnp.where(inside, slot + 1, 0),
        position=jnp.where(inside, column - of_slot(start), 0),
    )
    slot_of_rank = np.empty(deal.size, np.int32)
    slot_of_rank[deal.reshape(-1)] = np.arange(deal.size)
    place = jnp.zeros(count, jnp.int32)
    place = place.at[order].set(slot_of_rank[:count], unique_indices=True)
    fits = jnp.all(end[:, -1] <= width)
    return jnp.where(inside, index, none), layout, place, fits


def fold_width(
    lengths: np.ndarray,
    count: int,
    texts_per_row: int,
    *,
    weights: np.ndarray | None = None,
    batches: int = 4096,
) -> int:
    """A width of `fold`ed rows that batches seldom exceed.

    Args:
        lengths: `[I]` of the catalog.
        count: `P`, texts of a batch.
        texts_per_row: `G`.
        weights: `[I]` how often each list is drawn; by default all alike.
        batches: how many are drawn to find out; the widest, and a margin of 4 %, fits.

    Returns:
        A multiple of 8, or less where `G` of the longest fit in less.
    """
    lengths = np.asarray(lengths, np.int64)
    generator = np.random.default_rng(0)
    chance = None if weights is None else np.asarray(weights) / np.sum(weights)
    rows = -(-count // texts_per_row)
    widest = int(lengths.max(initial=1))
    most = texts_per_row * widest
    step = max(1, (1 << 22) // max(count, 1))
    for begin in range(0, batches, step):
        shape = (min(step, batches - begin), count)
        drawn = np.sort(generator.choice(lengths, shape, p=chance), axis=1)[:, ::-1]
        drawn = np.pad(drawn, ((0, 0), (0, rows * texts_per_row - count)))
        drawn = drawn.reshape(-1, texts_per_row, rows)
        drawn[:, 1::2] = drawn[:, 1::2, ::-1]
        widest = max(widest, int(drawn.sum(1).max()))
    return min(-(-int(np.ceil(widest * 1.04)) // 8) * 8, most)


@jax.custom_batching.custom_vmap
def everybody(flag: Array) -> Array:
    """A scalar bool; under `vmap`, whether it holds for all, as one unbatched scalar.

    A `cond` on it so stays a `cond` under `vmap`, where otherwise both branches would
    run for everybody.
    """
    return flag


@everybody.def_vmap
def _everybody(axis_size, in_batched, flag):
    del axis_size, in_batched
    return everybody(jnp.all(flag, axis=0)), False


def encode_packed(
    encode: Callable[[Array, Layout, int], Array],
    lists: Lists,
    ids: Array,
    *,
    per_row: int,
    width: int,
    longest: int,
) -> Array:
    """Encodes a batch of lists in folded rows, or one a row where they do not fit.

    Under `vmap` either all members of the batch take the folded rows or none does, and
    only what is taken is computed.

    Args:
        encode: `(values [R, W, ...], layout, G) -> [R, G, D]`, zeros for a segment that
            is not there. What it closes over is differentiated.
        lists: of the catalog.
        ids: `[P]` int32; those past the end give what `encode` gives for no segment.
        per_row: `G`.
        width: `W` of the folded rows (`fold_width`).
        longest: length of the longest of `lists`.

    Returns:
        `[P, D]`.
    """

    def encoded(texts_per_row: int, width: int) -> Array:
        index, layout, place, _ = fold(lists, ids, texts_per_row, width)
        vectors = encode(lists.values[index], layout, texts_per_row)
        return at_places(vectors, place)

    if width >= per_row * longest:
        return encoded(per_row, width)
    fits = fold(lists, ids, per_row, width)[3]
    return jax.lax.cond(
        everybody(fits),
        lambda: encoded(per_row, width),
        lambda: encoded(1, longest),
    )


def _longest_first(length: Array) -> Array:
    """`[P]` positions of the lengths `[P]`, descending; one sort of packed words."""
    (count,) = length.shape
    bits = max(count - 1, 1).bit_length()
    most = (1 << (31 - bits)) - 1  # longer lists count as this long: order only
    short = (most - jnp.minimum(length, most)).astype(jnp.uint32)
    packed = (short << bits) | jnp.arange(count, dtype=jnp.uint32)
    return (jax.lax.sort(packed) & ((1 << bits) - 1)).astype(jnp.int32)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths


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
