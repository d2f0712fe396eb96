"""Low rank: a leaf, or the rows a client touched, as a product of two thin matrices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epy

from fedjax_rec.codecs.feedback import Codec, Feedback

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.codecs import leaves, wire
    from fedjax_rec.core import messages, orthogonal, trees


@dataclasses.dataclass(frozen=True, kw_only=True)
class SVD(Codec):
    """Sends the best approximation of rank `r`, computed anew for each message.

    Where factors are no smaller than a leaf, or than the rows of a table that the
    client touched, these are sent as they are.

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
    the subspace follows the client's own deltas. Where factors are no smaller than a
    leaf, or than the rows of a table that the client touched, these are sent as they
    are. Published clients share one `Q`, so that their messages can be added up; here
    each has its own, and the server decodes one message after the other.

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

    def shrinks(count: leaves.Count, width: int) -> Any:
        return rank * (count + width) < count * width

    def init(size, dense):
        # A message holds any number of a table's rows.
        needed = shrinks(*size) if dense else size[1] > rank
        return start(size[1]) if needed else ()

    def encode(matrix, count, key, state):
        width, whole = matrix.shape[1], matrix.reshape(-1)
        if not shrinks(*matrix.shape):
            return {"whole": wire.floats(whole, count * width)}, state
        left, right, new = factor(matrix, state)
        smaller = shrinks(count, width)
        sizes = {"left": count * rank, "right": right.size}
        return {
            "whole": wire.floats(whole, jnp.where(smaller, 0, count * width)),
            **{
                name: wire.floats(x.reshape(-1), jnp.where(smaller, sizes[name], 0))
                for name, x in (("left", left), ("right", right))
            },
        }, trees.where(smaller, new, state)

    def decode(sent, size, count):
        whole = leaves.clear(sent["whole"].values, count * size[1]).reshape(size)
        if "left" not in sent:
            return whole
        left = leaves.clear(sent["left"].values, count * rank).reshape(-1, rank)
        product = left @ sent["right"].values.reshape(rank, -1)
        return jnp.where(shrinks(count, size[1]), product, whole)

    return leaves.by_leaf(leaves.MatrixCodec(encode, decode, init))
