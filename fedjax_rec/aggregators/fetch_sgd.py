"""FetchSGD: momentum and error feedback on the server, in the space of sketches."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import count_sketch as sketches
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class Sum:
    """A running weighted sum of sketches.

    Attributes:
        sketch: `[repeats, columns]`.
        weight: scalar.
    """

    sketch: Array
    weight: Array


@struct
class Memory:
    """What the server keeps; both `[repeats, columns]`.

    Attributes:
        momentum: of the mean sketches.
        error: what has not been applied yet.
    """

    momentum: Array
    error: Array


def fetch_sgd(
    share: float = 0.01,
    *,
    momentum: float = 0.9,
    repeats: int = 5,
    columns: int = 10_000,
    uniform: bool = False,
) -> Aggregator:
    """Adds up the clients' sketches, and applies the largest numbers of the sum.

    `u <- rho u + mean S(delta)`, `e <- e + u`, the update is the top-k of what `e` is
    the sketch of, and `e <- e - S(update)`.

    Memory: two sketches, and one estimate of all shared parameters.

    Args:
        share: of the shared parameters that move in a round, `k` of `n`.
        momentum: `rho`.
        repeats: rows of a sketch, as in `codecs.sketch.count_sketch`.
        columns: buckets of each, the same.
        uniform: clients weigh alike; otherwise by examples.

    References:
        Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with
        Sketching, ICML 2020, algorithm 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}: expected a share above 0 and at most 1")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}: expected 0 up to, and below, 1")

    def zeros(shared: Tree) -> Array:
        dtype = jax.tree.leaves(shared)[0].dtype
        return jnp.zeros((repeats, columns), dtype)

    def start(shared: Tree) -> Memory:
        return Memory(momentum=zeros(shared), error=zeros(shared))

    def init(shared: Tree, cohort_size: int) -> Sum:
        del cohort_size
        sketch = zeros(shared)
        return Sum(sketch=sketch, weight=jnp.zeros((), sketch.dtype))

    def update(acc: Sum, deltas: Tree, weights: Array, senders: Senders) -> Sum:
        del senders
        if uniform:
            weights = (weights > 0).astype(weights.dtype)
        added = jnp.tensordot(weights, deltas["sketch"], 1)
        return Sum(sketch=acc.sketch + added, weight=acc.weight + weights.sum())

    def finish(acc: Sum, state: Memory, shared: Tree):
        size = sketches.size_of(shared)
        mean = acc.sketch / jnp.where(acc.weight > 0, acc.weight, 1)
        moved = momentum * state.momentum + mean
        error = state.error + moved
        every = sketches.estimate(error, size)
        k = max(1, round(share * size))
        _, places = jax.lax.top_k(jnp.abs(every), k)
        values = every[places]
        error -= sketches.sketch_of_places(places, values, repeats, columns)
        flat = jnp.zeros(size, every.dtype).at[places].set(values)
        norm = jnp.linalg.norm
        info = {"unapplied": norm(error) / jnp.maximum(norm(moved), 1e-30)}
        return _unflatten(flat, shared), Memory(momentum=moved, error=error), info

    return Aggregator(init, update, finish, start)


def _unflatten(flat: Array, shared: Tree) -> Tree:
    leaves, tree = jax.tree.flatten(shared, is_leaf=rows.is_table)
    first, found = 0, []
    for leaf in leaves:
        array = leaf.values if rows.is_table(leaf) else leaf
        part = flat[first : first + array.size].reshape(array.shape).astype(array.dtype)
        whole = rows.is_table(leaf)
        found.append(dataclasses.replace(leaf, values=part) if whole else part)
        first += array.size
    return jax.tree.unflatten(tree, found)
