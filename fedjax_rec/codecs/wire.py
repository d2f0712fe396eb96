"""What goes over the wire: numbers in codes, counted to the bit.

A message is a tree whose `Field`s are what is sent; `serialize.py` writes them. Sizes
are computed in JAX, so that every client of a `vmap` knows its own.

| code | a number takes |
|---|---|
| `float32`, `bfloat16` | 32, 16 bits |
| `unsigned` | `width` bits |
| `ids` | ascending, after a header: what the cheapest of four ways takes |

The header of `ids` is 2 bits for the way, 5 for its parameter, and the count plus one
in an Elias gamma code, so nobody has to know beforehand how many come:

| way | parameter | bits of the ids |
|---|---|---|
| fixed | `w`, width of the last | `w` each |
| bitmap | | the last id plus one: it ends with its last one |
| Rice | `b` | `1 + b + (gap >> b)` each, `gap` the ids passed over |
| gamma | | `1 + 2 floor(log2(gap + 1))` each |
"""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.messages import Field

CODES = ("float32", "bfloat16", "unsigned", "ids")
RICE_TRIED = (-1, 0, 1)
"""Rice parameters that are tried, beside the logarithm of the mean gap."""


def is_field(leaf: Tree) -> bool:
    """Whether `leaf` is a `Field` (for `is_leaf`)."""
    return isinstance(leaf, Field)


def fields(message: Tree) -> list[Field]:
    """The fields of a message, in the order in which they are written."""
    found = jax.tree.leaves(message, is_leaf=is_field)
    return [leaf for leaf in found if is_field(leaf)]


def num_bits(message: Tree) -> Array:
    """uint32 scalar: what serialising a message takes; at most 512 MiB."""
    return sum((field.bits for field in fields(message)), jnp.uint32(0))


def floats(values: Array, count: Array | int, code: str = "float32") -> Field:
    """Floating-point numbers.

    Args:
        values: `[m]`; rounded to the nearest bfloat16 if that is the code.
        count: how many of them go.
        code: `float32` or `bfloat16`.

    Raises:
        ValueError: for another code.
    """
    if code not in CODES[:2]:
        raise ValueError(f"floats are coded as one of {CODES[:2]}, not {code!r}")
    return _fixed(values.astype(code), count, code, 32 if code == "float32" else 16)


def unsigned(values: Array, count: Array | int, width: int) -> Field:
    """Whole numbers in `[0, 2^width)`.

    Args:
        values: `[m]`.
        count: how many of them go.
        width: bits of each.

    Raises:
        ValueError: if `width` is not in 1 to 32.
    """
    if not 1 <= width <= 32:
        raise ValueError(f"numbers of 1 to 32 bits can be written, not of {width}")
    kind = jnp.uint8 if width <= 8 else jnp.uint16 if width <= 16 else jnp.uint32
    return _fixed(values.astype(kind), count, "unsigned", width)


def coded_ids(ids: Array, count: Array | int) -> Field:
    """Ascending ids, each once, in the cheapest of four ways.

    Args:
        ids: `[m]` int32; the first `count` ascend.
        count: how many of them go.

    Returns:
        A field that also says on the wire how many ids come.

    >>> int(coded_ids(jnp.array([2, 3, 9]), 3).bits)  # header 12, Rice 3 + 2 + 4
    21
    """
    count = jnp.asarray(count, jnp.int32)
    if not len(ids):
        return Field(values=ids, count=count, bits=jnp.uint32(8), code="ids", width=0)
    real = jnp.arange(len(ids)) < count
    before = jnp.concatenate([jnp.full(1, -1, ids.dtype), ids[:-1]])
    gaps = jnp.where(real, ids - before - 1, 0)
    last = jnp.where(count > 0, ids[jnp.maximum(count - 1, 0)], 0)
    fixed = count * jnp.where(last > 0, _log2(last) + 1, 0)
    bitmap = jnp.where(count > 0, last + 1, 0)
    middle = _log2((last + 1 - count) // jnp.maximum(count, 1))
    rice = [
        count * (1 + b) + (gaps >> b).sum()
        for b in (jnp.maximum(middle + more, 0) for more in RICE_TRIED)
    ]
    gamma = count + 2 * jnp.where(real, _log2(gaps + 1), 0).sum()
    body = jnp.min(jnp.stack([fixed, bitmap, *rice, gamma]))
    bits = 8 + 2 * _log2(count + 1) + body
    ids = jnp.where(real, ids, 0)
    return Field(
        values=ids, count=count, bits=bits.astype(jnp.uint32), code="ids", width=0
    )


def _fixed(values: Array, count: Array | int, code: str, width: int) -> Field:
    count = jnp.asarray(count, jnp.int32)
    bits = count.astype(jnp.uint32) * width
    return Field(values=values, count=count, bits=bits, code=code, width=width)


def _log2(x: Array) -> Array:
    """`floor(log2(x))`, and 0 for 0."""
    x = jnp.maximum(x, 1).astype(jnp.uint32)
    return (31 - jax.lax.clz(x)).astype(jnp.int32)
