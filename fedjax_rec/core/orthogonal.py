"""Small orthogonal factors without LAPACK, since its batches hang or are slow.

With a thread for each of two CPU devices, a program of `jnp.linalg.qr` over clients was
seen to deadlock; on accelerators batches of small factorizations run one by one. These
functions consist of a few products, and batch under `vmap`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array

_SWEEPS = 10
"""Sweeps over all pairs of axes; they converge quadratically from about the fifth."""


def orthonormal_columns(x: Array) -> Array:
    """Orthonormalizes columns in order, by Gram and Schmidt applied twice.

    A column that depends on those before it becomes zero.

    Args:
        x: `[n, r]` with few columns; work grows as `n r^2`.

    Returns:
        `[n, r]`; uniform over all such if `x` has independent normal entries.
    """
    for j in range(x.shape[1]):
        column, before = x[:, j], x[:, :j]
        size = jnp.linalg.norm(column)
        for _ in range(2):
            column = column - before @ (before.T @ column)
        left = jnp.linalg.norm(column)
        new = left > 1e-5 * size  # else it is rounding
        x = x.at[:, j].set(jnp.where(new, column / jnp.where(new, left, 1), 0))
    return x


def random_rows(key: Array, rank: int, width: int, dtype: Any = None) -> Array:
    """`[rank, width]` orthonormal rows, uniform over all such.

    Raises:
        ValueError: `rank` is not in 1 to `width`.
    """
    if not 1 <= rank <= width:
        raise ValueError(f"rank={rank}: expected 1 to {width}, the width of a row")
    return orthonormal_columns(jax.random.normal(key, (width, rank), dtype)).T


def leading_axes(matrix: Array, rank: int) -> Array:
    """The `rank` first right singular vectors, by subspace iteration.

    Takes the best combinations of `rank + 8` directions after ten iterations: exact up
    to rounding if there are no more directions, or if the singular values fall by half
    within them. For a matrix without structure the remainder is a few percent larger
    than the least one.

    Args:
        matrix: `[n, d]`.
        rank: at most `d`.

    Returns:
        `[d, rank]`, in columns.

    References:
        Halko, Martinsson and Tropp, Finding Structure with Randomness, SIAM Review
        2011, algorithm 4.4.
    """
    d = matrix.shape[1]
    gram = matrix.T @ matrix
    if rank + 8 >= d:
        return symmetric_axes(gram)[1][:, :rank]
    start = jax.random.normal(jax.random.key(0), (d, rank + 8), matrix.dtype)
    axes = jax.lax.fori_loop(
        0, 10, lambda _, q: orthonormal_columns(gram @ q), orthonormal_columns(start)
    )
    return axes @ symmetric_axes(axes.T @ gram @ axes)[1][:, :rank]


def symmetric_axes(matrix: Array) -> tuple[Array, Array]:
    """Eigenvalues, the largest first, and eigenvectors, by Jacobi's rotations.

    Half of all axes are rotated at once against the other half, in the pairs of a
    round-robin tournament. For small matrices: at 64 axes LAPACK is 40 times faster.

    Args:
        matrix: `[d, d]` symmetric.

    Returns:
        `(values [d], axes [d, d])`, the eigenvectors in columns.

    References:
        Golub and Van Loan, Matrix Computations, chapter 8.5.
    """
    d = matrix.shape[0]
    odd = d % 2
    # One more axis, which no rotation turns, makes their number even.
    matrix = jnp.pad(matrix, ((0, odd), (0, odd)))
    n, half = d + odd, (d + odd) // 2
    if n == 0:
        return jnp.zeros(0, matrix.dtype), matrix
    # Seats face each other; all but the first move on by one, clockwise.
    ring = [*range(1, half), *range(n - 1, half - 1, -1)]
    seats = np.arange(n)
    seats[ring] = np.roll(ring, 1)
    front, back = np.arange(half), np.arange(half, n)

    def turn(rows_: Array, cos: Array, sin: Array) -> Array:
        upper, lower = rows_[:half], rows_[half:]
        cos, sin = cos[:, None], sin[:, None]
        return jnp.concatenate([cos * upper - sin * lower, sin * upper + cos * lower])

    def step(_, state):
        s, axes = state
        across = s[front, back]
        tau = (s[back, back] - s[front, front]) / (
            2 * jnp.where(across == 0, 1, across)
        )
        tan = jnp.where(tau >= 0, 1.0, -1.0) / (jnp.abs(tau) + jnp.sqrt(1 + tau**2))
        tan = jnp.where(across == 0, 0, tan).astype(s.dtype)
        cos = 1 / jnp.sqrt(1 + tan**2)
        s = turn(turn(s, cos, tan * cos).T, cos, tan * cos)
        axes = turn(axes, cos, tan * cos)
        return s[seats][:, seats], axes[seats]

    start = (matrix, jnp.eye(n, dtype=matrix.dtype))
    steps = _SWEEPS * max(n - 1, 1)
    turned, axes = jax.lax.fori_loop(0, steps, step, start)
    values = jnp.diagonal(turned)
    if odd:
        # The axis that was added is the one with a part outside the others' space.
        values = jnp.where(jnp.abs(axes[:, -1]) > 0.5, -jnp.inf, values)
    order = jnp.argsort(-values)[:d]
    return values[order], axes[order, :d].T
