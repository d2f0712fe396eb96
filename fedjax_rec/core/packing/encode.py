"""Encoding a batch in packed rows, or one text a row if they do not fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing.fold import fold
from fedjax_rec.core.packing.plan import Lists, at_slots


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
    del axis_size, in_batched
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
