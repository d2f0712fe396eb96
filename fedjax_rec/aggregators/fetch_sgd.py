"""FetchSGD: momentum and error feedback on the server, in the space of sketches."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators import fold, means
from fedjax_rec.core import count_sketch
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


class Memory(NamedTuple):
    """The server's state; both `[repeats, columns]`.

    Attributes:
        momentum: running sum of mean sketches.
        error: sketch of the updates that have not been applied yet.
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
    """Averages the clients' sketches, and applies the largest numbers of their sum.

    `u <- rho u + mean S(delta)`, `e <- e + u`; the update holds the `k` largest numbers
    that `e` sketches, and `e <- e - S(update)`.

    Memory: two sketches, and one estimate of all shared parameters.

    Args:
        share: share of the shared parameters that move in a round, `k / n`.
        momentum: `rho`.
        repeats: rows of a sketch, as in `codecs.sketch.count_sketch`.
        columns: buckets of a row, as there.
        uniform: every client weighs the same, not in proportion to its examples.

    Returns:
        An aggregator; `info` has `unapplied`, the size of the error relative to `u`.

    Raises:
        ValueError: `share` is not in `(0, 1]`, or `momentum` not in `[0, 1)`.

    References:
        Rothchild et al., FetchSGD: Communication-Efficient Federated Learning with
        Sketching, ICML 2020, algorithm 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share}, expected a number in (0, 1]")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum}, expected a number in [0, 1)")

    def zeros(shared: Tree) -> Array:
        return jnp.zeros((repeats, columns), fold.scalar(shared).dtype)

    def start(shared: Tree) -> Memory:
        return Memory(zeros(shared), zeros(shared))

    def weigh(acc, deltas, weights, senders):
        scale = means.scale_of(weights, uniform)
        return deltas, scale, acc.sums + scale.sum()

    def finish(acc: fold.Fold, state: Memory, shared: Tree):
        size = count_sketch.size_of(shared)
        moved = momentum * state.momentum + fold.divided(acc.total["sketch"], acc.sums)
        error = state.error + moved
        estimate = count_sketch.estimate(error, size)
        _, places = jax.lax.top_k(jnp.abs(estimate), max(1, round(share * size)))
        values = estimate[places]
        error -= count_sketch.sketch_of_places(places, values, repeats, columns)
        flat = jnp.zeros(size, estimate.dtype).at[places].set(values)
        norm = jnp.linalg.norm
        info = {"unapplied": norm(error) / jnp.maximum(norm(moved), 1e-30)}
        return _unflatten(flat, shared), Memory(moved, error), info

    return fold.fold(
        weigh, finish, like=lambda shared: {"sketch": zeros(shared)}, start=start
    )


def _unflatten(flat: Array, shared: Tree) -> Tree:
    """The tree like the shared parameters with these numbers."""
    leaves, structure = jax.tree.flatten(shared)
    ends = np.cumsum([x.size for x in leaves])[:-1]
    parts = jnp.split(flat, ends)
    return structure.unflatten(
        part.reshape(x.shape).astype(x.dtype)
        for part, x in zip(parts, leaves, strict=True)
    )
