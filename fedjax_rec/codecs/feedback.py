"""Feedback: the next message makes up for the loss. Also the base of all settings."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from etils import epy

from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    from fedjax_rec.codecs import leaves, memory
    from fedjax_rec.core import messages

Feedback = Literal["none", "ef", "ef21"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
    """Base of the settings. A codec of your own needs `link`, or else `plain`.

    Attributes:
        feedback: `ef` adds the part of a delta that was not sent to the client's next
            delta (`error_feedback`); `ef21` sends the difference from an estimate that
            the server has, too (`ef21`).
    """

    feedback: Feedback = "none"

    def __post_init__(self) -> None:
        check_fields(self)

    def link(self) -> leaves.Link:
        """The codec of a vector, which can stand in a chain."""
        raise ValueError(
            f"{type(self).__name__} encodes whole matrices or rows, so that it cannot "
            "follow another codec in `then`"
        )

    def plain(self) -> messages.MessageTransform:
        """The codec of a delta, without feedback."""
        return leaves.leafwise(self.link())

    def build(self, context: Context) -> messages.MessageTransform:
        """The codec of a delta; it depends on no fact about the experiment."""
        around = {"none": lambda codec: codec, "ef": error_feedback, "ef21": ef21}
        return around[self.feedback](self.plain())


def check_fields(settings: Any) -> None:
    """Raises a ValueError for a field with a value that its type does not allow.

    Literals have their choices, sizes (int) are at least 1, and a codec in `then` has
    no feedback, which belongs to the codec that starts the chain.
    """
    hints = typing.get_type_hints(type(settings))
    sizes = tuple(name for name, hint in hints.items() if hint in (int, int | None))
    check_numbers(settings, sizes)
    for name, value in vars(settings).items():
        choices = typing.get_args(hints[name])
        if typing.get_origin(hints[name]) is Literal and value not in choices:
            raise ValueError(f"{name}={value!r}: expected one of {choices}")
        if name == "then" and getattr(value, "feedback", value) not in ("none", None):
            raise ValueError(
                f"then={value}: expected a codec with feedback='none', since feedback "
                "belongs to the codec that starts the chain"
            )


def error_feedback(codec: messages.MessageTransform) -> messages.MessageTransform:
    """Sends `C(delta + e)` and keeps `e' = delta + e - C(delta + e)`.

    The sum of all decoded messages plus the residual is the sum of all deltas. The
    residual of a row waits until the client touches that row again. It stays bounded if
    the codec contracts, so a codec with a `contracting` variant is replaced by it.

    References:
        Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014. Karimireddy
        et al., Error Feedback Fixes SignSGD and other Gradient Compression Schemes,
        ICML 2019.
    """

    codec = codec.contracting or codec

    def init(shared):
        return {"residual": memory.zeros(shared), "inner": codec.init(shared)}

    def encode(delta, state, sender):
        residual = state["residual"]
        wanted = memory.plus(delta, memory.read(residual, delta))
        message, inner = codec.encode(wanted, state["inner"], sender)
        decoded = memory.aligned(codec.decode(message), wanted, codec.every_row)
        residual = memory.write(residual, memory.plus(wanted, decoded, -1))
        return message, {"residual": residual, "inner": inner}

    return messages.MessageTransform(
        init, encode, codec.decode, every_row=codec.every_row, sparse=codec.sparse
    )


def ef21(codec: messages.MessageTransform) -> messages.MessageTransform:
    """Sends `c = C(delta - g)`; both sides then hold `g' = g + c`, which is decoded.

    In a table, only the rows that the client touches take part in a round; the estimate
    of other rows waits. Rows that the codec leaves out are not decoded. A codec with a
    `contracting` variant is replaced by it.

    References:
        Richtarik et al., EF21: A New, Simpler, Theoretically Better, and Practically
        Faster Error Feedback, NeurIPS 2021.
    """

    codec = codec.contracting or codec

    def init(shared):
        return {"estimate": memory.zeros(shared), "inner": codec.init(shared)}

    def encode(delta, state, sender):
        estimate = memory.read(state["estimate"], delta)
        wanted = memory.plus(delta, estimate, -1)
        sent, inner = codec.encode(wanted, state["inner"], sender)
        decoded = codec.decode(sent)
        estimated = memory.aligned(estimate, decoded, codec.every_row)
        change = memory.aligned(decoded, estimate, codec.every_row)
        new = memory.write(state["estimate"], memory.plus(estimate, change))
        # The server has its own copy of the estimate, which holds no `Field`.
        message = {"sent": sent, "estimate": estimated}
        return message, {"estimate": new, "inner": inner}

    def decode(message):
        return memory.plus(codec.decode(message["sent"]), message["estimate"])

    return messages.MessageTransform(init, encode, decode, every_row=codec.every_row)
