"""Low rank: a leaf, or the rows a client touched, as a product of two thin matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from etils import epy

from fedjax_rec.codecs.feedback import Codec, Feedback

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import leaves, wire
    from fedjax_rec.core import messages, orthogonal


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVD(Codec):
    """Sends the best approximation of rank `r`, computed anew for each message.

    A leaf with one axis, or with factors that are no smaller, is sent as it is.

    Attributes:
        rank: `r`.

    References:
        Eckart and Young, Psychometrika 1936. Konecny et al., Federated Learning:
        Strategies for Improving Communication Efficiency, 2016, for the use.
    """

    rank: int = 4
    feedback: Feedback = "ef"

    def plain(self) -> messages.MessageTransform:
        def factor(matrix, state):
            right = orthogonal.leading_axes(matrix, self.rank).T
            return matrix @ right.T, right, state

        return factored(self.rank, factor, lambda width: ())


@dataclasses.dataclass(frozen=True, kw_only=True)
class PowerSGD(Codec):
    """Takes one step of subspace iteration for each message, from the last one's end.

    `P = orthonormal(M Q)`, `Q' = M^T P`; `P` and `Q'` are sent. The state is `Q`, so
    the subspace follows the client's own deltas. A leaf with one axis, or with factors
    that are no smaller, is sent as it is.

    Attributes:
        rank: columns of `P` and `Q`.

    References:
        Vogels, Karimireddy and Jaggi, PowerSGD: Practical Low-Rank Gradient
        Compression for Distributed Optimization, NeurIPS 2019, algorithm 1.
    """

    rank: int = 4
    feedback: Feedback = "ef"

    def plain(self) -> messages.MessageTransform:
        def factor(matrix, q):
            left = orthogonal.orthonormal_columns(matrix @ q)
            right = matrix.T @ left
            # Directions without a delta keep their column.
            return left, right.T, jnp.where(jnp.any(right != 0, 0), right, q)

        def start(width):
            return orthogonal.random_rows(jax.random.key(0), self.rank, width).T

        return factored(self.rank, factor, start)


def factored(
    rank: int,
    factor: Callable[[jax.Array, Any], tuple[jax.Array, jax.Array, Any]],
    start: Callable[[int], Any],
) -> messages.MessageTransform:
    """Encodes leaves by their factors.

    Args:
        rank: `r`.
        factor: `(matrix [R, d], state) -> (left [R, r], right [r, d], state)`.
        start: `(d) -> state`.
    """

    def shrinks(size: tuple[int, int], dense: bool) -> bool:
        if not dense:
            return size[1] > rank
        return min(size) > rank and rank * sum(size) < math.prod(size)

    def init(size, dense):
        return start(size[1]) if shrinks(size, dense) else ()

    def encode(matrix, count, key, state):
        if not shrinks(matrix.shape, isinstance(count, int)):
            values = wire.floats(matrix.reshape(-1), count * matrix.shape[1])
            return {"whole": values}, state
        left, right, state = factor(matrix, state)
        present = jnp.asarray(count) > 0
        return {
            "left": wire.floats(left.reshape(-1), count * rank),
            "right": wire.floats(right.reshape(-1), jnp.where(present, right.size, 0)),
        }, state

    def decode(sent, size, count):
        if "whole" in sent:
            return leaves.clear(sent["whole"].values, count * size[1])
        left = leaves.clear(sent["left"].values, count * rank).reshape(-1, rank)
        return left @ sent["right"].values.reshape(rank, -1)

    return leaves.by_leaf(leaves.MatrixCodec(encode, decode, init))
