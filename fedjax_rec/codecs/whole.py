"""Codecs of a whole tree from one chain: each leaf by itself, or all as one vector."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.links import (
    Chain,
    Count,
    Parts,
    Quantizer,
    RowStage,
    Stage,
    chain,
    clear,
    decode_vector,
    encode_vector,
)
from fedjax_rec.codecs.order import in_order, table_length
from fedjax_rec.codecs.wire import coded_ids
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.keys import Purpose
from fedjax_rec.core.messages import Field, MessageTransform, Sender


class Shape(NamedTuple):
    """What the receiver knows of a leaf: `[...]`, or `[R, ...]` of a table."""

    shape: tuple[int, ...]
    dtype: str
    table: tuple[str, int] | None = None  # its space and its length


@struct
class Message:
    """A coded tree.

    Attributes:
        ids: for each leaf the ids of its rows, `None` if it is dense.
        sent: for each vector what each link of the chain sent.
        shapes: of the leaves.
        structure: of the tree.
    """

    ids: tuple[Field | None, ...]
    sent: tuple[tuple[Parts, ...], ...]
    shapes: tuple[Shape, ...] = static()
    structure: Any = static()


def leafwise(*links: RowStage | Stage | Quantizer | Chain) -> MessageTransform:
    """Every leaf through the chain by itself.

    Args:
        *links: as of `chain`.

    Returns:
        A codec without state.
    """
    return _codec(chain(*links), together=False)


def joined(*links: RowStage | Stage | Quantizer | Chain) -> MessageTransform:
    """All leaves through the chain as one vector: a budget is shared among them.

    `top_k` is then the global one. Dense leaves come first, each real entry follows
    the one before.

    Args:
        *links: as of `chain`.

    Returns:
        A codec without state.
    """
    return _codec(chain(*links), together=True)


def _codec(links: Chain, *, together: bool) -> MessageTransform:
    def encode(delta: Tree, state: Tree, sender: Sender) -> tuple[Message, Tree]:
        key = jax.random.fold_in(sender.key, int(Purpose.CODEC))
        leaves, structure = jax.tree.flatten(delta, is_leaf=rows.is_rows)
        flat = [
            _flatten(links, leaf, jax.random.fold_in(key, i))
            for i, leaf in enumerate(leaves)
        ]
        shapes = tuple(leaf.shape for leaf in flat)
        vectors = [(leaf.values, leaf.count) for leaf in flat]
        if together:
            vectors = [_join(vectors, _order(shapes))] if vectors else []
        sent = tuple(
            encode_vector(links, *vector, jax.random.fold_in(key, len(flat) + i))
            for i, vector in enumerate(vectors)
        )
        ids = tuple(leaf.ids for leaf in flat)
        return Message(ids=ids, sent=sent, shapes=shapes, structure=structure), state

    def decode(message: Message) -> Tree:
        sizes = [
            _size(ids, shape)
            for ids, shape in zip(message.ids, message.shapes, strict=True)
        ]
        if together and sizes:
            n = sum(size for size, _ in sizes)
            vector = decode_vector(links, message.sent[0], n, _total(sizes))
            vectors = _part(vector, sizes, _order(message.shapes))
        else:
            vectors = [
                decode_vector(links, sent, *size)
                for sent, size in zip(message.sent, sizes, strict=True)
            ]
        leaves = map(_unflatten, vectors, message.ids, message.shapes)
        return jax.tree.unflatten(message.structure, list(leaves))

    return MessageTransform(lambda shared: (), encode, decode, every_row=not links.rows)


class _Flat(NamedTuple):
    values: Array
    count: Count
    ids: Field | None
    shape: Shape


def _flatten(links: Chain, leaf: Tree, key: Array) -> _Flat:
    if not rows.is_rows(leaf):
        shape = Shape(leaf.shape, leaf.dtype.name)
        return _Flat(leaf.reshape(-1).astype(jnp.float32), leaf.size, None, shape)
    num_rows = table_length(leaf)
    ids, values, count = in_order(leaf)
    values = values.astype(jnp.float32)
    for place, stage in enumerate(links.rows):
        link_key = jax.random.fold_in(key, place)
        at, count = stage.select(values.reshape(len(values), -1), count, link_key)
        ids = ids.at[at].get(mode="fill", fill_value=num_rows)
        values = values.at[at].get(mode="fill", fill_value=0)
    table = (leaf.space, num_rows)
    shape = Shape(values.shape, leaf.values.dtype.name, table)
    width = math.prod(values.shape[1:])
    return _Flat(values.reshape(-1), count * width, coded_ids(ids, count), shape)


def _unflatten(vector: Array, ids: Field | None, shape: Shape) -> Tree:
    values = vector.reshape(shape.shape).astype(shape.dtype)
    if ids is None or shape.table is None:
        return values
    space, num_rows = shape.table
    real = jnp.arange(len(ids.values)) < ids.count
    ids_ = jnp.where(real, ids.values, num_rows)
    return rows.Rows(
        ids=ids_, values=values, space=space, num_rows=num_rows, ordered=True
    )


def _size(ids: Field | None, shape: Shape) -> tuple[int, Count]:
    n = math.prod(shape.shape)
    if ids is None:
        return n, n
    return n, ids.count * math.prod(shape.shape[1:])


def _order(shapes: tuple[Shape, ...]) -> list[int]:
    """Dense leaves first, whose places are static."""
    return sorted(range(len(shapes)), key=lambda i: shapes[i].table is not None)


def _total(sizes) -> Count:
    return sum(count for _, count in sizes)


def _join(vectors: list[tuple[Array, Count]], order: list[int]) -> tuple[Array, Count]:
    joint = jnp.zeros(sum(len(values) for values, _ in vectors))
    first: Count = 0
    for i in order:
        values, count = vectors[i]
        # What is written beyond `count` is zero, and the next leaf writes over it.
        joint = jax.lax.dynamic_update_slice(joint, values, (first,))
        first = first + count
    return joint, first


def _part(vector: Array, sizes, order: list[int]) -> list[Array]:
    parts: list[Any] = [None] * len(sizes)
    first: Count = 0
    for i in order:
        n, count = sizes[i]
        part = jax.lax.dynamic_slice(vector, (first,), (n,))
        parts[i] = clear(part, count)
        first = first + count
    return parts
