"""The reference serializer: a message as bytes, and back, in NumPy on the host.

`wire.num_bits` counts its bits. The receiver knows the codec and the shapes of the
shared parameters. The counts of `ids` are on the wire; all others follow from them.
"""

import dataclasses

import jax
import numpy as np

from fedjax_rec.codecs.wire import RICE_OFFSETS, fields, is_field
from fedjax_rec.core.arrays import Tree
from fedjax_rec.core.messages import Field

_FIXED, _BITMAP, _RICE, _GAMMA = range(4)


def serialize(message: Tree) -> bytes:
    """The bytes of one client's message; zeros fill the last byte."""
    return np.packbits(to_bits(message)).tobytes()


def to_bits(message: Tree) -> np.ndarray:
    """`[num_bits(message)]` uint8 of 0 and 1, the stream before it is packed."""
    parts = [_write(field) for field in fields(message)]
    return np.concatenate([np.zeros(0, np.uint8), *parts])


def deserialize(data: bytes, like: Tree) -> Tree:
    """Reads a message back.

    Args:
        data: bytes from `serialize`.
        like: a message of the same codec and shapes, for the structure, the length of
            `values`, and the count of fields other than `ids`.

    Returns:
        A message with values from the wire, and zeros beyond their count.

    Raises:
        ValueError: the bytes end before the message, or go on after it.
    """
    stream = _Stream(np.unpackbits(np.frombuffer(data, np.uint8)))
    read = jax.tree.map(
        lambda leaf: _read(leaf, stream) if is_field(leaf) else leaf,
        like,
        is_leaf=is_field,
    )
    left = len(stream.bits) - stream.at
    if left >= 8:
        raise ValueError(f"{left} bits follow the message: is it of another codec?")
    return read


class _Stream:
    def __init__(self, bits: np.ndarray):
        self.bits, self.at = bits, 0

    def take(self, count: int) -> np.ndarray:
        if self.at + count > len(self.bits):
            raise ValueError(
                f"the message ends at bit {len(self.bits)}, but its field needs "
                f"{count} bits from {self.at} on: is it of another codec?"
            )
        self.at += count
        return self.bits[self.at - count : self.at]

    def number(self, width: int) -> int:
        return int(_from_binary(self.take(width)[None])[0]) if width else 0

    def unary(self) -> int:
        """Number of zeros before the next one."""
        zeros = 0
        while not self.take(1)[0]:
            zeros += 1
        return zeros

    def gamma(self) -> int:
        extra = self.unary()
        return (1 << extra) | self.number(extra)


def _binary(values: np.ndarray, width: int) -> np.ndarray:
    """`[m, width]`, most significant bit first."""
    shifts = np.arange(width, dtype=np.uint64)[::-1]
    return ((values.astype(np.uint64)[:, None] >> shifts) & 1).astype(np.uint8)


def _from_binary(bits: np.ndarray) -> np.ndarray:
    weights = np.uint64(1) << np.arange(bits.shape[1], dtype=np.uint64)[::-1]
    return (bits.astype(np.uint64) * weights).sum(1, dtype=np.uint64)


def _number(value: int, width: int) -> list[int]:
    return [value >> i & 1 for i in reversed(range(width))]


def _gamma(value: int) -> list[int]:
    width = value.bit_length()
    return [0] * (width - 1) + _number(value, width)


def _write(field: Field) -> np.ndarray:
    values = np.asarray(field.values)[: int(field.count)]
    if field.code == "ids":
        return np.array(_write_ids([int(v) for v in values]), np.uint8)
    if field.code == "float32":
        values = values.view(np.uint32)
    elif field.code == "bfloat16":
        values = values.view(np.uint16)
    return _binary(values, field.width).reshape(-1)


def _write_ids(ids: list[int]) -> list[int]:
    gaps = [b - a - 1 for a, b in zip([-1, *ids], ids, strict=False)]
    last = ids[-1] if ids else 0
    width = last.bit_length()
    bitmap = [0] * (last + 1 if ids else 0)
    for i in ids:
        bitmap[i] = 1
    ways = [
        (_FIXED, width, [bit for i in ids for bit in _number(i, width)]),
        (_BITMAP, 0, bitmap),
        (_GAMMA, 0, [bit for g in gaps for bit in _gamma(g + 1)]),
    ]
    mean = sum(gaps) // max(len(gaps), 1)
    for offset in RICE_OFFSETS:
        b = max(0, max(mean, 1).bit_length() - 1 + offset)
        coded = [x for g in gaps for x in [0] * (g >> b) + [1] + _number(g, b)]
        ways.append((_RICE, b, coded))
    way, parameter, body = min(ways, key=lambda w: len(w[2]))
    return _number(way, 2) + _number(parameter, 5) + _gamma(len(ids) + 1) + body


def _read(field: Field, stream: _Stream) -> Field:
    room = len(field.values)
    values = np.zeros(room, np.asarray(field.values).dtype)
    start = stream.at
    if field.code == "ids":
        ids = _read_ids(stream)
        count = len(ids)
        values[:count] = ids
    else:
        count = int(field.count)
        bits = stream.take(count * field.width).reshape(count, field.width)
        raw = _from_binary(bits)
        if field.code == "float32":
            values[:count] = raw.astype(np.uint32).view(np.float32)
        elif field.code == "bfloat16":
            values[:count] = raw.astype(np.uint16).view(values.dtype)
        else:
            values[:count] = raw
    return dataclasses.replace(
        field,
        values=values,
        count=np.int32(count),
        bits=np.uint32(stream.at - start),
    )


def _read_ids(stream: _Stream) -> list[int]:
    way, parameter = stream.number(2), stream.number(5)
    count = stream.gamma() - 1
    if way == _FIXED:
        return [stream.number(parameter) for _ in range(count)]
    ids, last = [], -1
    for _ in range(count):
        if way == _GAMMA:
            gap = stream.gamma() - 1
        elif way == _RICE:
            gap = stream.unary() << parameter
            gap |= stream.number(parameter)
        else:
            gap = stream.unary()
        last += gap + 1
        ids.append(last)
    return ids
