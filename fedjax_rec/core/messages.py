"""Messages from a client to the server, and two-sided transforms of them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.keys import Purpose


@struct
class Field:
    """Numbers of a message that are sent one after the other.

    Attributes:
        values: `[m]`; the first `count` are sent.
        count: int32 scalar.
        bits: uint32 scalar, the size of all of them together.
        code: how each number is written, a name of `codecs.wire.CODES`.
        width: bits of one number, or the parameter of its code.
    """

    values: Array
    count: Array
    bits: Array
    code: str = static()
    width: int = static()


@struct
class Sender:
    """The client that a message comes from.

    Attributes:
        id: int32 scalar.
        key: the client's key of the round; a transform derives its own from it.
        round_key: key that all clients of the round share.
        weight: scalar, number of examples; 0 if absent.
        personal: the client's personal parameters after local training.
    """

    id: Array
    key: Array
    round_key: Array
    weight: Array
    personal: Tree


class MessageTransform(NamedTuple):
    """A two-sided pure function on a client's message: codec, clipping, noise, attack.

    Its state stays on the client, in addition to the personal parameters.

    Attributes:
        init: `(message) -> state` before the client's first message; `()` for none. A
            state shaped like the shared parameters is best a `codecs.memory.Memory`: a
            round reads and writes only its touched rows.
        encode: `(message, state, sender) -> (message, state)`, for one client. It first
            receives a delta in which every row of a table occurs once.
        decode: `(message) -> message`, on the server.
        counted: the encoded message is a tree of `Field`s; their bits are its size.
        every_row: exactly the rows of the delta are decoded.
        schedule: messages of a client whose sizes differ by their number: a first one,
            a second and so on; the last holds from then on.
        sparse: some numbers of the rows that are decoded are zero instead of their own
            values.
        own_momentum: `encode` adds momentum, so the server optimizer must keep none.
        contracting: replaces the transform under feedback, which needs
            `E ||x - C(x)||^2 < ||x||^2`; `None` if it contracts as it is.
        purpose: purpose of the keys that `encode` derives from the sender's.
        parts: the transforms of a `chain`; empty otherwise. A round runs them one after
            the other, so that each reads the memory of the rows that it receives.
    """

    init: Callable[[Tree], Tree]
    encode: Callable[[Tree, Tree, Sender], tuple[Tree, Tree]]
    decode: Callable[[Tree], Tree] = lambda message: message
    counted: bool = True
    every_row: bool = False
    schedule: int = 1
    sparse: bool = False
    own_momentum: bool = False
    contracting: "MessageTransform | None" = None
    purpose: Purpose = Purpose.CODEC
    parts: tuple["MessageTransform", ...] = ()


def chain(*transforms: MessageTransform) -> MessageTransform:
    """Applies transforms in order on the client, and undoes them in reverse order.

    The second of two transforms with the same purpose gets a key of its own.

    Args:
        *transforms: the first receives the delta; all but the last return a message
            that is a delta again. Chains among them are flattened.

    Returns:
        A transform with the tuple of all states as its state.

    Raises:
        ValueError: a transform other than the last one encodes its message.
    """
    parts = tuple(
        p for transform in transforms for p in transform.parts or (transform,)
    )
    if any(part.counted for part in parts[:-1]):
        raise ValueError("a transform that encodes its message must be the last one")

    def init(message: Tree) -> Tree:
        return tuple(part.init(message) for part in parts)

    def encode(message: Tree, state: Tree, sender: Sender) -> tuple[Tree, Tree]:
        states = []
        for i, part in enumerate(parts):
            part_sender = dataclasses.replace(sender, key=key_of(parts, i, sender.key))
            message, new = part.encode(message, state[i], part_sender)
            states.append(new)
        return message, tuple(states)

    def decode(message: Tree) -> Tree:
        for part in reversed(parts):
            message = part.decode(message)
        return message

    return MessageTransform(
        init,
        encode,
        decode,
        counted=parts[-1].counted,
        every_row=all(part.every_row for part in parts),
        schedule=max(part.schedule for part in parts),
        sparse=any(part.sparse for part in parts),
        own_momentum=any(part.own_momentum for part in parts),
        parts=parts,
    )


def key_of(parts: tuple[MessageTransform, ...], place: int, key: Array) -> Array:
    """The key that the transform at `place` of a chain derives its own from."""
    earlier = [part.purpose for part in parts[:place]]
    repeat = earlier.count(parts[place].purpose)
    return jax.random.fold_in(key, repeat) if repeat else key
