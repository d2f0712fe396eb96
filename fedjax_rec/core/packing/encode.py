"""Encoding a batch in packed rows, or one text a row where they do not fit."""

from collections.abc import Callable
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fedjax_rec.core.arrays import Array
from fedjax_rec.core.backbone import Layout
from fedjax_rec.core.packing.fold import fold
from fedjax_rec.core.packing.lists import Lists, at_places


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
    """Encodes a batch of lists in folded rows; where they overflow, one in each row.

    The result is exact either way. Under `vmap` one member's overflow sends all of them
    the long way; where none overflows, that way costs nothing, in either direction of
    differentiation. There is reverse mode only.

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

    def encoded(texts_per_row: int, width: int) -> tuple[Array, Array]:
        index, layout, place, fits = fold(lists, ids, texts_per_row, width)
        vectors = encode(lists.values[index], layout, texts_per_row)
        return at_places(vectors, place), fits

    vectors, fits = encoded(per_row, width)
    if width >= per_row * longest:
        return vectors
    return _unless(everybody(fits), vectors, lambda: encoded(1, longest)[0])


def _unless(fits: Array, value: Array, otherwise: Callable[[], Array]) -> Array:
    """`value` where `fits`, else `otherwise()`, of which nothing is kept for later.

    A `cond` that is differentiated hands what either branch wants to keep out of it,
    zeros for the branch not taken, and copies of the weights: here a third of a step.
    So the backward pass is a `cond` of its own, which computes `otherwise` anew.
    """
    # What `otherwise` closes over becomes an argument, that may be differentiated.
    closed = jax.make_jaxpr(otherwise)()

    def run(consts: list[Array]) -> Array:
        return jax.core.eval_jaxpr(closed.jaxpr, consts)[0]

    @jax.custom_vjp
    def choose(fits: Array, value: Array, consts: list[Array]) -> Array:
        return jax.lax.cond(fits, lambda: value, lambda: run(consts))

    def forward(fits, value, consts):
        out = choose(fits.value, value.value, [c.value for c in consts])
        # Frozen weights are held by their absence from the first list.
        moving = [c.value if c.perturbed else None for c in consts]
        still = [None if c.perturbed else c.value for c in consts]
        return out, (fits.value, moving, still)

    def backward(kept: Any, gradient: Any):
        fits, moving, still = kept
        if isinstance(gradient, SymbolicZero):
            return None, None, [None] * len(still)

        def again(moving: list) -> Array:
            pairs = zip(moving, still, strict=True)
            return run([s if m is None else m for m, s in pairs])

        through = jax.lax.cond(
            everybody(fits),
            lambda: jax.tree.map(jnp.zeros_like, moving),
            lambda: jax.vjp(again, moving)[1](gradient)[0],
        )
        return None, jnp.where(fits, gradient, 0), through

    choose.defvjp(forward, backward, symbolic_zeros=True)
    return choose(fits, value, closed.consts)
