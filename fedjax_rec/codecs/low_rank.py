"""Low rank: a matrix, or the rows a client touched, as a product of two thin ones.

Every leaf is a matrix here: a table's touched rows `[R, d]`, a dense leaf with its
first axes joined. A leaf with one axis, or whose factors are no smaller, goes as it is.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.order import in_order, table_length
from fedjax_rec.codecs.wire import coded_ids, floats
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.messages import Field, MessageTransform, Sender
from fedjax_rec.core.orthogonal import leading_axes, orthonormal_columns


@struct
class Product:
    """The message of a leaf: `left @ right`, or the leaf itself.

    Attributes:
        ids: of the rows, ascending, or `None`.
        left: of `[R, r]`, or of the whole leaf.
        right: of `[r, d]`, or `None`.
        known: what the receiver has without being sent it: a `right` that all share,
            and where it is told the factors of every row, `(ids, left)` of those that
            are not zero.
        shape: `(R, d)`, or the leaf's.
        space: of the table's rows; empty for a dense leaf.
        num_rows: of the table.
    """

    ids: Field | None
    left: Field
    right: Field | None
    known: Tree
    shape: tuple[int, ...] = static()
    space: str = static(default="")
    num_rows: int = static(default=0)


Factor = Callable[[Array, Tree], tuple[Array, Array, Tree]]
"""`(matrix [R, d], state) -> (left [R, r], right [r, d], state)`."""


def orthonormal(key: Array, rank: int, width: int, dtype=jnp.float32) -> Array:
    """`[rank, width]` orthonormal rows, uniform over all such.

    Raises:
        ValueError: `rank` is not in 1 to `width`.
    """
    if not 1 <= rank <= width:
        raise ValueError(f"rank={rank}: expected 1 to {width}, the width of a row")
    return orthonormal_columns(jax.random.normal(key, (width, rank), dtype)).T


def colr(
    bases: Callable[[Array], Mapping[str, Array]], *, touched_only: bool = False
) -> MessageTransform:
    """CoLR: deltas that lie in a basis all clients share go as their coordinates.

    Exact for tables trained by steps in that basis (`Correction.basis`); others are
    projected onto it. As published, every row of the table is sent, `I x r` numbers;
    with `touched_only` the touched rows and their ids.

    Args:
        bases: `(round_key) -> {table: [r, d]}`, orthonormal rows for tables among the
            shared parameters. Other groups are sent as they are.
        touched_only: send no rows that a client did not touch.

    References:
        Nguyen et al., Towards Efficient Communication and Secure Federated
        Recommendation System via Low-rank Training, WWW 2024.
    """

    def encode(delta: dict[str, Tree], state: Tree, sender: Sender):
        basis_of = bases(sender.round_key)
        message = {}
        for name, part in delta.items():
            if name not in basis_of:
                message[name] = jax.tree.map(_as_it_is, part, is_leaf=rows.is_rows)
                continue
            basis = basis_of[name]
            message[name] = _coordinates(part, basis, touched_only)
        return message, state

    return MessageTransform(lambda shared: (), encode, _decode, every_row=True)


def _coordinates(part: rows.Rows, basis: Array, touched_only: bool) -> Product:
    ids, values, count, num_rows = _in_order(part)
    left = values @ basis.T
    some: dict[str, Any] = {
        "right": None,
        "shape": values.shape,
        "space": part.space,
        "num_rows": num_rows,
    }
    if touched_only:
        return Product(
            left=floats(left.reshape(-1), count * left.shape[1]),
            ids=coded_ids(ids, count),
            known={"right": basis},
            **some,
        )
    every = jnp.zeros((num_rows, len(basis)), left.dtype).at[ids].set(left, mode="drop")
    return Product(
        left=floats(every.reshape(-1), every.size),
        ids=None,
        known={"right": basis, "ids": ids, "left": left},
        **some,
    )


def svd(rank: int) -> MessageTransform:
    """The best approximation of rank `r` (`orthogonal.leading_axes`), each time anew.

    References:
        Eckart and Young, Psychometrika 1936. Konecny et al., Federated Learning:
        Strategies for Improving Communication Efficiency, 2016, for the use.
    """

    def factor(matrix: Array, state: Tree):
        right = leading_axes(matrix, rank).T
        return matrix @ right.T, right, state

    return _factored(rank, factor, lambda matrix_shape, dtype: ())


def power_sgd(rank: int) -> MessageTransform:
    """PowerSGD: one step of subspace iteration a message, from where the last ended.

    `P = orthonormal(M Q)`, `Q' = M^T P`; `P` and `Q'` are sent. The state is `Q`, so
    the subspace follows the client's own deltas. As published it wants error feedback
    around it.

    References:
        Vogels, Karimireddy and Jaggi, PowerSGD: Practical Low-Rank Gradient
        Compression for Distributed Optimization, NeurIPS 2019, algorithm 1.
    """

    def factor(matrix: Array, q: Array):
        left = orthonormal_columns(matrix @ q)
        right = matrix.T @ left
        # Directions in which a client has nothing to send are kept.
        some = jnp.any(right != 0, 0)
        return left, right.T, jnp.where(some, right, q)

    def start(shape: tuple[int, int], dtype) -> Array:
        return orthonormal(jax.random.key(0), rank, shape[1], dtype).T

    return _factored(rank, factor, start)


def _factored(
    rank: int, factor: Factor, start: Callable[..., Tree]
) -> MessageTransform:
    if rank < 1:
        raise ValueError(f"rank={rank}: expected at least 1")

    def init(shared: Tree) -> list[Tree]:
        leaves = jax.tree.leaves(shared, is_leaf=rows.is_table)
        states = []
        for leaf in leaves:
            array = leaf.values if rows.is_table(leaf) else leaf
            shape = _matrix(array.shape)
            whole = not rows.is_table(leaf) and not _shrinks(shape, rank)
            kept = () if whole or shape[1] < rank else start(shape, array.dtype)
            states.append(kept)
        return states

    def encode(delta: Tree, state: list[Tree], sender: Sender):
        del sender
        leaves, tree = jax.tree.flatten(delta, is_leaf=rows.is_rows)
        messages, states = [], []
        for leaf, kept in zip(leaves, state, strict=True):
            message, kept = _product(leaf, kept, rank, factor)
            messages.append(message)
            states.append(kept)
        return jax.tree.unflatten(tree, messages), states

    return MessageTransform(init, encode, _decode, every_row=True)


def _product(leaf: Any, state: Tree, rank: int, factor: Factor):
    if not rows.is_rows(leaf):
        shape = _matrix(leaf.shape)
        if not _shrinks(shape, rank):
            return _as_it_is(leaf), state
        left, right, state = factor(leaf.reshape(shape), state)
        message = Product(
            left=floats(left.reshape(-1), left.size),
            right=floats(right.reshape(-1), right.size),
            ids=None,
            known=(),
            shape=leaf.shape,
        )
        return message, state
    ids, values, count, num_rows = _in_order(leaf)
    if values.shape[1] <= rank:
        return _as_it_is(leaf), state
    left, right, state = factor(values, state)
    message = Product(
        left=floats(left.reshape(-1), count * left.shape[1]),
        right=floats(right.reshape(-1), jnp.where(count > 0, right.size, 0)),
        ids=coded_ids(ids, count),
        known=(),
        shape=values.shape,
        space=leaf.space,
        num_rows=num_rows,
    )
    return message, state


def _as_it_is(leaf: Any) -> Product:
    if not rows.is_rows(leaf):
        left = floats(leaf.reshape(-1), leaf.size)
        return Product(left=left, right=None, ids=None, known=(), shape=leaf.shape)
    ids, values, count, num_rows = _in_order(leaf)
    return Product(
        left=floats(values.reshape(-1), count * values.shape[1]),
        right=None,
        ids=coded_ids(ids, count),
        known=(),
        shape=values.shape,
        space=leaf.space,
        num_rows=num_rows,
    )


def _decode(message: Tree) -> Tree:
    return jax.tree.map(_read, message, is_leaf=lambda leaf: isinstance(leaf, Product))


def _read(sent: Product) -> Any:
    known = sent.known if isinstance(sent.known, dict) else {}
    right = known.get("right")
    if sent.right is not None:
        right = sent.right.values.reshape(-1, _matrix(sent.shape)[1])
    if not sent.space:
        values = sent.left.values
        if right is not None:
            values = values.reshape(-1, len(right)) @ right
        return values.reshape(sent.shape)
    if sent.ids is None:  # every row came; those that are not zero are known
        ids, left = known["ids"], known["left"]
    else:
        real = jnp.arange(sent.shape[0]) < sent.ids.count
        ids = jnp.where(real, sent.ids.values, sent.num_rows)
        left = sent.left.values.reshape(sent.shape[0], -1)
        left = jnp.where(real[:, None], left, 0)
    values = left if right is None else left @ right
    return rows.Rows(
        ids=ids, values=values, space=sent.space, num_rows=sent.num_rows, ordered=True
    )


def _in_order(leaf: rows.Rows) -> tuple[Array, Array, Array, int]:
    """Ids ascending, their rows, how many are real (the rest is zero), the length."""
    ids, values, count = in_order(leaf)
    return ids, values.reshape(len(ids), -1), count, table_length(leaf)


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    return math.prod(shape[:-1]), (*shape, 1)[max(len(shape) - 1, 0)]


def _shrinks(shape: tuple[int, int], rank: int) -> bool:
    return min(shape) > rank and rank * sum(shape) < math.prod(shape)
