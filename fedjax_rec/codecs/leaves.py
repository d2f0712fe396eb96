"""Codecs of vectors and matrices, and codecs of whole trees made from them.

A vector is `[n]` float32; its first `count` numbers are real and all others zero. `n`
is static; `count` is an int for a dense leaf, and traced for the rows of a table.
Budgets are shares of the real count, and no message depends on `n`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.wire import coded_ids
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.keys import Purpose
from fedjax_rec.core.messages import Field, MessageTransform, Sender

Count = Array | int
Sent = dict[str, Any]
"""`Field`s by name, and under `then` those of the next link."""


class Link(NamedTuple):
    """Codec of a vector. A chain is a link that passes numbers on to another one.

    Attributes:
        encode: `(values [n], count, key, place) -> sent`. A link folds its `place` in
            the chain into `key`, and passes on `key` and `place + 1`.
        decode: `(sent, n, count) -> values [n]`. It reads no count of a field except
            that of ids, since the receiver has no other.
        sparse: as in `MessageTransform`.
        contracting: as in `MessageTransform`.
    """

    encode: Callable[[Array, Count, Array, int], Sent]
    decode: Callable[[Sent, int, Count], Array]
    sparse: bool = False
    contracting: "Link | None" = None


class MatrixCodec(NamedTuple):
    """Codec of a leaf as a matrix `[R, d]` with `count` real rows, which come first.

    These are the rows of a table, or of a dense leaf with its leading axes joined;
    `count` is an int for the latter only.

    Attributes:
        encode: `(matrix, count, key, state) -> (sent, state)`.
        decode: `(sent, (R, d), count) -> matrix`.
        init: `((R, d), dense) -> state`.
    """

    encode: Callable[[Array, Count, Array, Tree], tuple[Sent, Tree]]
    decode: Callable[[Sent, tuple[int, int], Count], Array]
    init: Callable[[tuple[int, int], bool], Tree] = lambda shape, dense: ()


@struct
class Leaf:
    """An encoded leaf.

    Attributes:
        ids: ids of the rows; `None` for a dense leaf.
        sent: fields of the numbers; empty if they are sent with those of other leaves.
        shape: `[...]`, or `[R, ...]` for rows of a table.
        dtype: name of the numbers' type.
        table: space and length of the table; `None` for a dense leaf.
    """

    ids: Field | None
    sent: Sent
    shape: tuple[int, ...] = static()
    dtype: str = static()
    table: tuple[str, int] | None = static()

    @property
    def size(self) -> tuple[int, int]:
        """`(R, d)`."""
        return _size(self.shape, self.table is None)

    @property
    def count(self) -> Count:
        """Number of real rows."""
        return self.size[0] if self.ids is None else self.ids.count


def leafwise(link: Link) -> MessageTransform:
    """Encodes every leaf separately as a vector."""

    def encode(matrix: Array, count: Count, key: Array, state: Tree):
        sent = link.encode(matrix.reshape(-1), count * matrix.shape[1], key, 0)
        return sent, state

    def decode(sent: Sent, size: tuple[int, int], count: Count) -> Array:
        return link.decode(sent, math.prod(size), count * size[1])

    return _declared(by_leaf(MatrixCodec(encode, decode)), link, leafwise)


def by_leaf(codec: MatrixCodec) -> MessageTransform:
    """Encodes every leaf separately as a matrix."""

    def init(shared: Tree) -> list[Tree]:
        return [
            codec.init(_size(leaf.values.shape, False), False)
            if rows.is_table(leaf)
            else codec.init(_size(leaf.shape, True), True)
            for leaf in jax.tree.leaves(shared, is_leaf=rows.is_table)
        ]

    def encode(delta: Tree, state: list[Tree], sender: Sender):
        matrices, structure, key = _matrices(delta, sender)
        leaves, new = [], []
        for i, (matrix, leaf) in enumerate(matrices):
            leaf_key = jax.random.fold_in(key, len(matrices) + i)
            old = state[i] if state else ()
            sent, changed = codec.encode(matrix, leaf.count, leaf_key, old)
            leaves.append(dataclasses.replace(leaf, sent=sent))
            new.append(changed)
        return jax.tree.unflatten(structure, leaves), new if state else state

    def decode(message: Tree) -> Tree:
        def restore(leaf: Leaf) -> Tree:
            return _restored(codec.decode(leaf.sent, leaf.size, leaf.count), leaf)

        return jax.tree.map(restore, message, is_leaf=_is_leaf)

    return MessageTransform(init, encode, decode, every_row=True)


def joined(link: Link) -> MessageTransform:
    """Encodes all leaves together as one vector, so that they share a budget.

    Dense leaves come first, and the real numbers of each leaf follow those of the leaf
    before.
    """

    def encode(delta: Tree, state: Tree, sender: Sender):
        matrices, structure, key = _matrices(delta, sender)
        joint, first = jnp.zeros(sum(matrix.size for matrix, _ in matrices)), 0
        for matrix, leaf in sorted(matrices, key=lambda pair: pair[1].ids is not None):
            # The next leaf overwrites the zeros beyond `count`.
            values = matrix.reshape(-1)
            joint = jax.lax.dynamic_update_slice(joint, values, (first,))
            first = first + leaf.count * leaf.size[1]
        key = jax.random.fold_in(key, len(matrices))
        leaves = jax.tree.unflatten(structure, [leaf for _, leaf in matrices])
        sent = link.encode(joint, first, key, 0) if matrices else {}
        return {"leaves": leaves, "sent": sent}, state

    def decode(message: dict[str, Tree]) -> Tree:
        leaves, structure = jax.tree.flatten(message["leaves"], is_leaf=_is_leaf)
        if not leaves:
            return message["leaves"]
        sizes = [math.prod(leaf.size) for leaf in leaves]
        real = [leaf.count * leaf.size[1] for leaf in leaves]
        joint, first = link.decode(message["sent"], sum(sizes), sum(real)), 0
        for i in sorted(range(len(leaves)), key=lambda i: leaves[i].ids is not None):
            values = jax.lax.dynamic_slice(joint, (first,), (sizes[i],))
            leaves[i] = _restored(clear(values, real[i]), leaves[i])
            first = first + real[i]
        return jax.tree.unflatten(structure, leaves)

    codec = MessageTransform(lambda shared: (), encode, decode, every_row=True)
    return _declared(codec, link, joined)


def _declared(codec: MessageTransform, link: Link, around: Callable):
    """The codec with the properties of its link."""
    contracting = None if link.contracting is None else around(link.contracting)
    return codec._replace(sparse=link.sparse, contracting=contracting)


SCOPES = {"leaf": leafwise, "all": joined}


def clear(values: Array, count: Count) -> Array:
    """`values` `[n]`, zero from `count` on."""
    if isinstance(count, int) and count == len(values):
        return values
    return jnp.where(jnp.arange(len(values)) < count, values, 0)


def in_order(leaf: rows.Rows) -> tuple[rows.Rows, int, Array]:
    """Rows in the order of their ids, the table's length, and the number of real rows.

    Raises:
        ValueError: the rows do not know the table's length.
    """
    if leaf.num_rows is None:
        raise ValueError(
            "rows have num_rows=None, so a codec cannot distinguish padding from ids: "
            "pass the delta through rows.merge_repeats first"
        )
    count = (leaf.ids < leaf.num_rows).sum(dtype=jnp.int32)
    return rows.merge_repeats(leaf, leaf.num_rows), leaf.num_rows, count


def _size(shape: tuple[int, ...], dense: bool) -> tuple[int, int]:
    lead = len(shape) - 1 if dense else 1
    return math.prod(shape[: max(lead, 0)]), math.prod(shape[lead:])


def _matrices(
    delta: Tree, sender: Sender
) -> tuple[list[tuple[Array, Leaf]], Any, Array]:
    """Matrices `[R, d]` of all leaves, the tree's structure, and a key."""
    leaves, structure = jax.tree.flatten(delta, is_leaf=rows.is_rows)
    key = jax.random.fold_in(sender.key, int(Purpose.CODEC))
    return [_as_matrix(leaf) for leaf in leaves], structure, key


def _as_matrix(leaf: Tree) -> tuple[Array, Leaf]:
    ids = table = None
    values = leaf
    if rows.is_rows(leaf):
        leaf, num_rows, count = in_order(leaf)
        ids, table = coded_ids(leaf.ids, count), (leaf.space, num_rows)
        values = leaf.values
    dtype = values.dtype.name
    head = Leaf(ids=ids, sent={}, shape=values.shape, dtype=dtype, table=table)
    return values.reshape(head.size).astype(jnp.float32), head


def _restored(values: Array, leaf: Leaf) -> Tree:
    values = values.reshape(leaf.shape).astype(leaf.dtype)
    if leaf.ids is None or leaf.table is None:
        return values
    space, num_rows = leaf.table
    real = jnp.arange(len(leaf.ids.values)) < leaf.ids.count
    ids = jnp.where(real, leaf.ids.values, num_rows)
    return rows.Rows(
        ids=ids, values=values, space=space, num_rows=num_rows, ordered=True
    )


def _is_leaf(leaf: Tree) -> bool:
    return isinstance(leaf, Leaf)
