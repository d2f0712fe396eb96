"""Fields of messages, with their exact size in bits.

A message is a tree, and its `Field`s are the numbers that are sent. Sizes are computed
in JAX, so that under `vmap` every client has its own.

| code | bits of a number |
|---|---|
| `float32`, `bfloat16` | 32, 16 |
| `unsigned` | `width` |
| `ids` | ascending, after a header, in the cheapest of four ways |

The header of `ids` holds 2 bits for the way, 5 for its parameter, and the count plus
one in an Elias gamma code, so that the receiver need not know the count beforehand:

| way | parameter | bits of the ids |
|---|---|---|
| fixed | `w`, width of the last id | `w` each |
| bitmap | | the last id plus one |
| Rice | `b` | `1 + b + (gap >> b)` each, `gap` the ids passed over |
| gamma | | `1 + 2 floor(log2(gap + 1))` each |
"""

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.messages import Field

CODES = ("float32", "bfloat16", "unsigned", "ids")
RICE_OFFSETS = (-1, 0, 1)
"""Rice parameters that are tried, relative to the logarithm of the mean gap."""


def is_field(leaf: Tree) -> bool:
    """Whether `leaf` is a `Field` (for `is_leaf`)."""
    return isinstance(leaf, Field)


def fields(message: Tree) -> list[Field]:
    """The fields of a message, in the order in which they are written."""
    return [x for x in jax.tree.leaves(message, is_leaf=is_field) if is_field(x)]


def num_bits(message: Tree) -> Array:
    """uint32 scalar, the size of the serialized message; at most 512 MiB."""
    return sum((field.bits for field in fields(message)), jnp.uint32(0))


def floats(values: Array, count: Array | int, code: str = "float32") -> Field:
    """Floating-point numbers.

    Args:
        values: `[m]`; rounded to the nearest bfloat16 if that is the code.
        count: number of values that are sent, the first ones.
        code: `float32` or `bfloat16`.

    Raises:
        ValueError: `code` is another one.
    """
    if code not in CODES[:2]:
        raise ValueError(f"code={code!r}: expected one of {CODES[:2]}")
    return _fixed(values.astype(code), count, code, 32 if code == "float32" else 16)


def unsigned(values: Array, count: Array | int, width: int) -> Field:
    """Integers in `[0, 2^width)`.

    Args:
        values: `[m]`.
        count: number of values that are sent, the first ones.
        width: bits of each.

    Raises:
        ValueError: `width` is not in 1 to 32.
    """
    if not 1 <= width <= 32:
        raise ValueError(f"width={width}: expected 1 to 32 bits")
    kind = jnp.uint8 if width <= 8 else jnp.uint16 if width <= 16 else jnp.uint32
    return _fixed(values.astype(kind), count, "unsigned", width)


def coded_ids(ids: Array, count: Array | int) -> Field:
    """Ascending ids, each once, in the cheapest of four ways.

    Args:
        ids: `[m]` int32; the first `count` ascend.
        count: number of ids that are sent.

    Returns:
        A field; its size includes that of the count.

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
        for b in (jnp.maximum(middle + offset, 0) for offset in RICE_OFFSETS)
    ]
    gamma = count + 2 * jnp.where(real, _log2(gaps + 1), 0).sum()
    body = jnp.min(jnp.stack([fixed, bitmap, *rice, gamma]))
    bits = (8 + 2 * _log2(count + 1) + body).astype(jnp.uint32)
    ids = jnp.where(real, ids, 0)
    return Field(values=ids, count=count, bits=bits, code="ids", width=0)


def _fixed(values: Array, count: Array | int, code: str, width: int) -> Field:
    count = jnp.asarray(count, jnp.int32)
    bits = count.astype(jnp.uint32) * width
    return Field(values=values, count=count, bits=bits, code=code, width=width)


def _log2(x: Array) -> Array:
    """`floor(log2(x))`, and 0 for 0."""
    x = jnp.maximum(x, 1).astype(jnp.uint32)
    return (31 - jax.lax.clz(x)).astype(jnp.int32)
