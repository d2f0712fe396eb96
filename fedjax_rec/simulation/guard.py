"""Guard of a round against clients with numbers that would destroy the shared model.

A client is *sound* if its loss and its personal parameters are finite, and the numbers
of its message finite and no larger than `magnitudes.largest`. A client that is not
sound is absent for the rest of the round: it has weight 0 and an empty delta, and keeps
its personal parameters and the memory of its transform. Rules and codecs therefore meet
only finite numbers, with squares that do not overflow in any sum.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.fold import wide
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult
from fedjax_rec.core.magnitudes import small


def representable(delta: Tree, shared: Tree) -> Array:
    """Whether all numbers are finite and at most `magnitudes.largest`, `[V]` bool.

    Args:
        delta: leaves `[V, ...]` in groups; padding of rows may hold any number.
        shared: the shared parameters, with a table for all `rows.Rows`.
    """
    good: Array | bool = True
    leaves = jax.tree.leaves(delta, is_leaf=rows.is_rows)
    for leaf, length in zip(leaves, _lengths(delta, shared), strict=True):
        if rows.is_rows(leaf):
            good_rows = small(leaf.values, leaf.ids.ndim) | (leaf.ids >= length)
            good &= good_rows.all(1)
        else:
            good &= small(leaf, 1)
    return jnp.asarray(good)


def sound(result: ClientResult, shared: Tree) -> Array:
    """Whether the outcomes of local training are sound, `[V]` bool."""
    good = representable(result.delta, shared)
    for x in jax.tree.leaves(
        (result.metrics.get("loss"), result.extras, result.personal)
    ):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            good &= jnp.isfinite(x).reshape(len(x), -1).all(1)
    return good


def guarded(result: ClientResult, good: Array, shared: Tree) -> ClientResult:
    """Outcomes in which clients that are not `good` are absent.

    Their rows become padding, which costs less than to write zeros. Their personal
    parameters stay as trained, and are not to be written (`writable`).

    Args:
        result: outcomes of local training, `[V, ...]`.
        good: `[V]` bool.
        shared: the shared parameters.
    """

    def zeroed(x: Array) -> Array:
        return jnp.where(wide(good, x), x, 0)

    def emptied(leaf: Tree, length: int) -> Tree:
        if not rows.is_rows(leaf):
            return zeroed(leaf)
        ids = jnp.where(good[:, None], leaf.ids, length)
        return dataclasses.replace(leaf, ids=ids)

    leaves, structure = jax.tree.flatten(result.delta, is_leaf=rows.is_rows)
    lengths = _lengths(result.delta, shared)
    return ClientResult(
        delta=structure.unflatten(map(emptied, leaves, lengths)),
        personal=result.personal,
        weight=zeroed(result.weight),
        metrics=jax.tree.map(zeroed, result.metrics),
        extras=jax.tree.map(zeroed, result.extras),
    )


def writable(cohort_rows: Array, good: Array) -> Array:
    """`[V]` rows of state, past the end for clients that are not `good`."""
    return jnp.where(good, cohort_rows, jnp.iinfo(cohort_rows.dtype).max)


def diverged(clients: Array, rejected: Array, shared: Tree) -> Array:
    """Whether no client of a round was sound, or the new model is not finite."""
    finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(shared)]
    return ((clients == 0) & (rejected > 0)) | ~jnp.stack(finite).all()


def _lengths(delta: Tree, shared: Tree) -> Sequence[int]:
    """Lengths of the tables of a delta's leaves, in order; 0 for dense leaves."""

    def of_groups() -> Iterator[int]:
        for name in sorted(delta):
            count = len(jax.tree.leaves(delta[name], is_leaf=rows.is_rows))
            lengths = rows.table_lengths(shared.get(name, ()))
            # A decoded message may be another tree than a delta, without rows.
            yield from lengths if len(lengths) == count else (0,) * count

    return tuple(of_groups())
