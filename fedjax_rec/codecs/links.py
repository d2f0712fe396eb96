"""Chains: what one stage keeps of a vector is what the next one encodes.

A stage sees `[n]` float32 of which the first `count` are real and all others zero. `n`
is static; `count` is an int for a dense leaf and traced for the rows of a table.
Budgets are shares of the real count, and nothing about a message depends on `n`.

The last link of a chain, a quantizer, writes numbers and passes nothing on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.codecs.select import Places
from fedjax_rec.codecs.wire import floats
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.messages import Field

Count = Array | int
Parts = dict[str, Field]


class Stage(NamedTuple):
    """A link that passes numbers on.

    Attributes:
        encode: `(values [n], count, key) -> (parts, values [m], count)`: what goes over
            the wire here, and what the next link gets.
        passed: `(parts, n, count) -> (m, count)` of what the next link got. Of a part
            it reads no count but that of `ids`: the receiver has no other.
        decode: `(parts, values [m], n, count) -> values [n]`.
    """

    encode: Callable[[Array, Count, Array], tuple[Parts, Array, Count]]
    passed: Callable[[Parts, int, Count], tuple[int, Count]]
    decode: Callable[[Parts, Array, int, Count], Array]


class Quantizer(NamedTuple):
    """The last link.

    Attributes:
        encode: `(values [n], count, key) -> parts`.
        decode: `(parts, n, count) -> values [n]`.
    """

    encode: Callable[[Array, Count, Array], Parts]
    decode: Callable[[Parts, int, Count], Array]


class RowStage(NamedTuple):
    """A link that keeps whole rows of a table, before they become one vector.

    Attributes:
        select: `(values [R, d], count, key) -> places` among the first `count` rows.
    """

    select: Callable[[Array, Array, Array], Places]


class Chain(NamedTuple):
    """Links in order: of whole rows, of numbers, and the last."""

    rows: tuple[RowStage, ...]
    stages: tuple[Stage, ...]
    quantizer: Quantizer


def chain(*links: RowStage | Stage | Quantizer | Chain) -> Chain:
    """Links one after the other; what is left at the end goes as float32.

    Args:
        *links: row stages, then stages, then at most one quantizer. Chains in it are
            taken link by link.

    Raises:
        ValueError: if a link stands where it cannot.

    >>> from fedjax_rec.codecs.sparsify import top_k
    >>> len(chain(top_k(0.1)).stages)
    1
    """
    flat: list[RowStage | Stage | Quantizer] = []
    for link in links:
        if isinstance(link, Chain):
            own = (link.quantizer,) if link.quantizer is not _FLOAT32 else ()
            flat += [*link.rows, *link.stages, *own]
        else:
            flat.append(link)
    order = {RowStage: 0, Stage: 1, Quantizer: 2}
    for link in flat:
        if type(link) not in order:
            raise ValueError(
                f"a chain is made of stages and quantizers, got {type(link).__name__}: "
                "call the factory, and put what keeps a state outside, around the codec"
            )
    kinds = [order[type(link)] for link in flat]
    if kinds != sorted(kinds) or kinds.count(2) > 1:
        names = [type(link).__name__ for link in flat]
        raise ValueError(
            "a chain is row stages, then stages, then at most one quantizer, which "
            f"passes nothing on; got {', '.join(names)}"
        )
    return Chain(
        rows=tuple(link for link in flat if isinstance(link, RowStage)),
        stages=tuple(link for link in flat if isinstance(link, Stage)),
        quantizer=next((q for q in flat if isinstance(q, Quantizer)), _FLOAT32),
    )


def encode_vector(
    links: Chain, values: Array, count: Count, key: Array
) -> tuple[Parts, ...]:
    """What each stage and the quantizer send of a vector.

    Args:
        links: the chain; its row stages are not read.
        values: `[n]` float32; what is not real is zero.
        count: how many are real.
        key: each link folds its place into it.
    """
    sent = []
    for place, stage in enumerate(links.stages):
        link_key = jax.random.fold_in(key, place)
        parts, values, count = stage.encode(values, count, link_key)
        sent.append(parts)
    last_key = jax.random.fold_in(key, len(links.stages))
    return (*sent, links.quantizer.encode(values, count, last_key))


def decode_vector(links: Chain, sent: tuple[Parts, ...], n: int, count: Count) -> Array:
    """The vector `[n]` that the other side reads; zero beyond `count`."""
    sizes = [(n, count)]
    for stage, parts in zip(links.stages, sent, strict=False):
        sizes.append(stage.passed(parts, *sizes[-1]))
    values = links.quantizer.decode(sent[-1], *sizes[-1])
    for stage, parts, size in reversed(
        list(zip(links.stages, sent, sizes, strict=False))
    ):
        values = stage.decode(parts, values, *size)
    return values


def clear(values: Array, count: Count) -> Array:
    """`values` `[n]`, zero where not real."""
    if isinstance(count, int) and count == len(values):
        return values
    return jnp.where(jnp.arange(len(values)) < count, values, 0)


def float32() -> Quantizer:
    """Numbers as they are, 32 bits each."""
    return _written("float32")


def bf16() -> Quantizer:
    """The nearest bfloat16: 16 bits, a relative error of at most 2^-8."""
    return _written("bfloat16")


def _written(code: str) -> Quantizer:
    def encode(values: Array, count: Count, key: Array) -> Parts:
        del key
        return {"values": floats(values, count, code)}

    def decode(parts: Parts, n: int, count: Count) -> Array:
        del n
        return clear(parts["values"].values.astype(jnp.float32), count)

    return Quantizer(encode, decode)


_FLOAT32 = float32()
