"""Packing a batch into rows inside a compiled program."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing.plan import Lists


def fold(
    lists: Lists, ids: Array, texts_per_row: int, width: int
) -> tuple[Array, Layout, Array, Array]:
    """Packs a batch of lists inside a compiled program.

    Sorted by length, they are dealt to the rows in snake order, which balances the
    rows' sums: row 0 gets ranks 0, 2R - 1, 2R, ...

    Args:
        lists: lists of the catalog.
        ids: `[P]` int32, repeated or not; ids past the end are empty lists.
        texts_per_row: `G`.
        width: `W`.

    Returns:
        `index` `[R, W]` into `lists.values`, and the layout, for `R = ceil(P / G)`
        rows; `slots` `[P]`, each list's slot `row * G + segment - 1`; and whether every
        row holds all of its texts (scalar bool). Otherwise they are cut off.
    """
    (count,) = ids.shape
    num_lists, none = lists.length.shape[0], lists.values.shape[0] - 1
    rows = -(-count // texts_per_row)
    clipped = jnp.clip(ids, 0, num_lists - 1)
    length = jnp.where(ids < num_lists, lists.length[clipped], 0)
    order = _longest_first(length)
    # The rank dealt to each slot; ranks past the batch are empty texts.
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

    index = column + of_slot(dealt(lists.offset[clipped]) - start)
    layout = Layout(
        segment=jnp.where(inside, slot + 1, 0),
        position=jnp.where(inside, column - of_slot(start), 0),
    )
    slot_of_rank = np.empty(deal.size, np.int32)
    slot_of_rank[deal.reshape(-1)] = np.arange(deal.size)
    slots = jnp.zeros(count, jnp.int32)
    slots = slots.at[order].set(slot_of_rank[:count], unique_indices=True)
    fits = jnp.all(end[:, -1] <= width)
    return jnp.where(inside, index, none), layout, slots, fits


def fold_width(
    lengths: np.ndarray,
    count: int,
    texts_per_row: int,
    *,
    batches: int = 4096,
) -> int:
    """Estimates a width of `fold`ed rows that batches seldom exceed.

    Args:
        lengths: `[I]`, lengths of the catalog's lists.
        count: `P`, texts of a batch.
        texts_per_row: `G`.
        batches: number of batches to draw; the widest fits, with a margin of 4 %.

    Returns:
        A multiple of 8, or less if `G` of the longest lists fit in less.
    """
    lengths = np.asarray(lengths, np.int64)
    generator = np.random.default_rng(0)
    rows = -(-count // texts_per_row)
    widest = int(lengths.max(initial=1))
    most = texts_per_row * widest
    step = max(1, (1 << 22) // max(count, 1))
    for begin in range(0, batches, step):
        shape = (min(step, batches - begin), count)
        drawn = np.sort(generator.choice(lengths, shape), axis=1)[:, ::-1]
        drawn = np.pad(drawn, ((0, 0), (0, rows * texts_per_row - count)))
        drawn = drawn.reshape(-1, texts_per_row, rows)
        drawn[:, 1::2] = drawn[:, 1::2, ::-1]
        widest = max(widest, int(drawn.sum(1).max()))
    return min(-(-int(np.ceil(widest * 1.04)) // 8) * 8, most)


def _longest_first(length: Array) -> Array:
    """`[P]` positions of the lengths `[P]`, descending; one sort of packed words."""
    (count,) = length.shape
    bits = max(count - 1, 1).bit_length()
    most = (1 << (31 - bits)) - 1  # longer lists count as this long: order only
    short = (most - jnp.minimum(length, most)).astype(jnp.uint32)
    packed = (short << bits) | jnp.arange(count, dtype=jnp.uint32)
    return (jax.lax.sort(packed) & ((1 << bits) - 1)).astype(jnp.int32)
