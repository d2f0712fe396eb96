"""Packing a batch of texts into rows inside a compiled program, and encoding it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing import Lists, at_slots


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


def encode_packed(
    encode: Callable[[Array, Layout, int], Array],
    lists: Lists,
    ids: Array,
    *,
    per_row: int,
    width: int,
    longest: int,
) -> Array:
    """Encodes a batch of lists in folded rows; if they overflow, one in each row.

    The result is exact either way. Under `vmap`, one member's overflow sends all of
    them the long way. Without an overflow, the long way costs no time, in either
    direction of differentiation. Reverse mode only.

    Args:
        encode: `(values [R, W, ...], layout, G) -> [R, G, D]`, zeros for an absent
            segment. Arrays in its closure are differentiated.
        lists: lists of the catalog.
        ids: `[P]` int32; ids past the end give the output of `encode` for no segment.
        per_row: `G`.
        width: `W` of the folded rows (`fold_width`).
        longest: length of the longest of `lists`.

    Returns:
        `[P, D]`.
    """

    def encoded(texts_per_row: int, width: int) -> tuple[Array, Array]:
        index, layout, slots, fits = fold(lists, ids, texts_per_row, width)
        vectors = encode(lists.values[index], layout, texts_per_row)
        return at_slots(vectors, slots), fits

    vectors, fits = encoded(per_row, width)
    if width >= per_row * longest:
        return vectors
    return _unless(all_under_vmap(fits), vectors, lambda: encoded(1, longest)[0])


@jax.custom_batching.custom_vmap
def all_under_vmap(flag: Array) -> Array:
    """A scalar bool; under `vmap`, whether it holds for all, as one unbatched scalar.

    A `cond` on the result stays a `cond` under `vmap`. On a batched flag, both branches
    would run for every member.
    """
    return flag


@all_under_vmap.def_vmap
def _all_under_vmap(axis_size, in_batched, flag):
    return all_under_vmap(jnp.all(flag, axis=0)), False


def _unless(fits: Array, value: Array, otherwise: Callable[[], Array]) -> Array:
    """`value` if `fits`, else `otherwise()`, which saves no residuals.

    A differentiated `cond` returns the residuals of both branches, zeros for the branch
    not taken, and copies of the weights: a third of a step's time here. The backward
    pass is therefore a separate `cond`, which computes `otherwise` again.
    """
    # Arrays in the closure of `otherwise` become arguments, which may have gradients.
    closed = jax.make_jaxpr(otherwise)()

    def run(consts: list[Array]) -> Array:
        return jax.core.eval_jaxpr(closed.jaxpr, consts)[0]

    @jax.custom_vjp
    def choose(fits: Array, value: Array, consts: list[Array]) -> Array:
        return jax.lax.cond(fits, lambda: value, lambda: run(consts))

    def forward(fits, value, consts):
        out = choose(fits.value, value.value, [c.value for c in consts])
        # Frozen weights are `None` in the first list, and get no gradient.
        moving = [c.value if c.perturbed else None for c in consts]
        still = [None if c.perturbed else c.value for c in consts]
        return out, (fits.value, moving, still)

    def backward(saved: Any, gradient: Any):
        fits, moving, still = saved
        if isinstance(gradient, SymbolicZero):
            return None, None, [None] * len(still)

        def again(moving: list) -> Array:
            pairs = zip(moving, still, strict=True)
            return run([s if m is None else m for m, s in pairs])

        through = jax.lax.cond(
            all_under_vmap(fits),
            lambda: jax.tree.map(jnp.zeros_like, moving),
            lambda: jax.vjp(again, moving)[1](gradient)[0],
        )
        return None, jnp.where(fits, gradient, 0), through

    choose.defvjp(forward, backward, symbolic_zeros=True)
    return choose(fits, value, closed.consts)
