"""Guard of a round against clients with numbers that would destroy everybody's model.

A client is *sound* if its message, its personal parameters and its loss are finite, and
the square of its delta's norm is representable with room to spare. A client that is not
sound is absent for the rest of the round: it has weight 0 and a delta of zeros, and
keeps its personal parameters and the memory of its transform. Rules and codecs
therefore meet finite numbers only, and squares of norms that do not overflow.
"""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.fold import wide
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult

ROOM = 2.0**20
"""Factor by which a squared norm stays below the largest number, so that rules can add
up squares and repeated rows: norms are below 1.8e16 in float32."""


def representable(delta: Tree, shared: Tree) -> Array:
    """Whether `ROOM` times the squared norm over all leaves is finite, `[V]`.

    Args:
        delta: leaves `[V, ...]` in groups; padding of rows may hold any number.
        shared: the shared parameters, with a table for all `rows.Rows`.
    """

    def squares(change: Tree, leaf: Tree) -> Array:
        if not rows.is_rows(change):
            return jnp.square(change).reshape(len(change), -1).sum(1)
        real = wide(change.ids < len(leaf.values), change.values)
        values = jnp.where(real, change.values, 0)
        return jnp.square(values).reshape(len(values), -1).sum(1)

    total: Array | float = 0.0
    for name, part in delta.items():
        leaves = jax.tree.leaves(part, is_leaf=rows.is_rows)
        tables = jax.tree.leaves(shared.get(name), is_leaf=rows.is_table)
        # A decoded message may be another tree than a delta, without rows.
        tables = tables if len(tables) == len(leaves) else [None] * len(leaves)
        total = sum(map(squares, leaves, tables), start=total)
    return jnp.isfinite(ROOM * total)


def sound(result: ClientResult, shared: Tree) -> Array:
    """Whether the outcomes of local training are sound, `[V]` bool."""
    read = (result.metrics["loss"], result.extras, result.personal)
    good = representable(result.delta, shared)
    for x in jax.tree.leaves(read):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            good &= jnp.isfinite(x).reshape(len(x), -1).all(1)
    return good


def guarded(result: ClientResult, before: Tree, good: Array) -> ClientResult:
    """Outcomes in which clients that are not `good` are absent.

    Args:
        result: outcomes of local training, `[V, ...]`.
        before: the personal parameters that it started from.
        good: `[V]` bool.
    """

    def zeroed(x: Array) -> Array:
        return jnp.where(wide(good, x), x, 0)

    def unchanged(x: Array, old: Array) -> Array:
        return jnp.where(wide(good, x), x, old)

    old = {name: before[name] for name in result.personal}
    return ClientResult(
        delta=rows.map_values(zeroed, result.delta),
        personal=jax.tree.map(unchanged, result.personal, old),
        weight=zeroed(result.weight),
        metrics=jax.tree.map(zeroed, result.metrics),
        extras=jax.tree.map(zeroed, result.extras),
    )


def diverged(clients: Array, rejected: Array, shared: Tree) -> Array:
    """Whether no client of a round was sound, or the new model is not finite."""
    finite = [jnp.isfinite(x).all() for x in jax.tree.leaves(shared)]
    return ((clients == 0) & (rejected > 0)) | ~jnp.stack(finite).all()
