"""Laws of codecs and other message transforms."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.codecs.wire import fields, is_field, num_bits
from fedjax_rec.core import rows
from fedjax_rec.core.messages import MessageTransform
from fedjax_rec.testing import rules
from fedjax_rec.testing.client_delta import (
    NUM_ITEMS,
    SCALES,
    SHARED,
    delta_of,
    dense,
    sender,
    without_padding,
)
from fedjax_rec.testing.compare import (
    check_close,
    check_finite,
    check_same,
    check_shapes,
    require,
)
from fedjax_rec.testing.law import NotApplicable
from fedjax_rec.testing.wire_stream import deserialize, serialize, to_bits


class Codec:
    """The transform of some settings, and its states.

    Attributes:
        transform: the transform.
        states: a client's state before its first message and after its second one.
    """

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.transform: MessageTransform = settings.build(rules.facts())
        transform = self.transform

        @jax.jit
        def encode(delta, state, key):
            return transform.encode(delta, state, sender(key))

        self.encode = encode
        self.decode = jax.jit(transform.decode)
        self._states: list[Any] = []

    @property
    def states(self) -> tuple[Any, Any]:
        if not self._states:
            states = [self.transform.init(SHARED)]
            for seed in (1, 2):
                message = delta_of(seed), states[-1], jax.random.key(seed)
                states.append(self.encode(*message)[1])
            self._states = states
        return self._states[0], self._states[2]


def builds(codec: Codec) -> None:
    """`build(context)` returns a MessageTransform"""
    require(
        isinstance(codec.transform, MessageTransform),
        f"it returned a {type(codec.transform).__name__}; expected a "
        "fedjax_rec.core.messages.MessageTransform",
    )


def sends_as_many_bits_as_it_counts(codec: Codec) -> None:
    """The serialized message has as many bits as are counted"""
    _counted(codec)
    for message, scale in _messages(codec):
        require(
            fields(message),
            "counted=True is declared, and the message has no Field: write what is "
            "sent with the functions of fedjax_rec.codecs.wire, or declare "
            "counted=False",
        )
        sent, counted = len(to_bits(message)), int(num_bits(message))
        require(
            sent == counted,
            f"a message of {sent} bits is counted as {counted}, for a delta of numbers "
            f"of scale {scale:g}: does a Field have another `count`, `width` or "
            "`bits` than its values?",
        )


def decodes_what_was_sent(codec: Codec) -> None:
    """`decode` reads only what was sent"""
    _counted(codec)
    for message, scale in _messages(codec):
        _check_width(message, scale)
        read = deserialize(serialize(message), message)
        # Bytes say it all: counts that the receiver lacks are not read.
        blind = jax.tree.map(
            lambda f: (
                dataclasses.replace(f, count=jnp.int32(-7), bits=jnp.uint32(0))
                if is_field(f) and f.code != "ids"
                else f
            ),
            read,
            is_leaf=is_field,
        )
        blind = jax.tree.map(jnp.asarray, blind)  # NumPy would round in other ways
        actual, expected = map(codec.transform.decode, (blind, message))
        what = (
            f"the delta decoded from the bytes, and from the message, of numbers of "
            f"scale {scale:g}"
        )
        check_same(without_padding(actual), without_padding(expected), what)
        check_same(
            actual,
            expected,
            f"{what}; only rows of padding differ, so clear what is decoded beyond "
            "`count` (fedjax_rec.codecs.leaves.clear)",
        )


def _messages(codec: Codec) -> Iterator[tuple[Any, float]]:
    """Messages of deltas of several scales, and the scales."""
    for seed in range(4):
        scale = SCALES[seed % len(SCALES)]
        message, _ = codec.encode(
            delta_of(seed, scale=scale), codec.states[seed % 2], jax.random.key(seed)
        )
        yield message, scale


def _check_width(message: Any, scale: float) -> None:
    for field in fields(message):
        if field.code == "unsigned" and int(field.count):
            largest = int(np.asarray(field.values)[: int(field.count)].max())
            require(
                largest < 2**field.width,
                f"a Field of width {field.width} has the number {largest}, which does "
                f"not fit in its bits (at most {2**field.width - 1}), for a delta of "
                f"numbers of scale {scale:g}",
            )


def only_fields_are_sent(codec: Codec) -> None:
    """Arrays of a message that are no Fields do not depend on the values sent"""
    # The server may have them, such as its memory of a client in EF21.
    _counted(codec)
    delta, state, key = delta_of(0), codec.states[1], jax.random.key(0)
    other = rows.map_values(lambda x: 2 * x + 1, delta)
    messages = (codec.encode(d, state, key)[0] for d in (delta, other))
    first, second = (
        jax.tree.map(lambda x: () if is_field(x) else x, m, is_leaf=is_field)
        for m in messages
    )
    check_same(
        second,
        first,
        "uncounted arrays of the message for a delta and for another one",
    )


def keeps_structure(codec: Codec) -> None:
    """The decoded delta and the state keep structure, shapes and types"""
    delta, transform = delta_of(5), codec.transform
    message, state = codec.encode(delta, codec.states[1], jax.random.key(0))
    decoded = transform.decode(message)
    check_shapes(state, codec.states[0], "the state after a message")
    require(
        set(decoded) == {"item", "w"} and rows.is_rows(decoded["item"]),
        f"the decoded delta is {jax.tree.structure(decoded)}; expected rows of `item` "
        "and an array `w`",
    )
    for name, array, shape in (
        ("w", decoded["w"], (5, 2)),
        ("item.values", decoded["item"].values, (*decoded["item"].ids.shape, 3)),
    ):
        require(
            (array.shape, array.dtype) == (shape, jnp.float32),
            f"decoded {name} is {array.dtype}{list(array.shape)}; expected "
            f"float32{list(shape)}",
        )
    check_finite(dense(decoded), "the decoded delta")
    check_finite(state, "the state after a message")


def a_row_stays_that_row(codec: Codec) -> None:
    """Decoded rows are rows of the delta, each once"""
    delta = delta_of(5)
    message, _ = codec.encode(delta, codec.states[1], jax.random.key(0))
    ids = np.asarray(codec.transform.decode(message)["item"].ids)
    real, sent = ids[ids < NUM_ITEMS], np.asarray(delta["item"].ids)
    sent = sent[sent < NUM_ITEMS]
    foreign = sorted(set(real) - set(sent))
    require(
        not foreign, f"rows {foreign} are decoded, and rows {sorted(sent)} were sent"
    )
    require(
        len(set(real)) == len(real),
        f"rows {sorted(real)} are decoded: one occurs more than once",
    )
    if codec.transform.every_row:
        require(
            set(real) == set(sent),
            f"every_row=True is declared, and of the rows {sorted(sent)} only "
            f"{sorted(real)} are decoded",
        )


def padding_changes_nothing(codec: Codec) -> None:
    """Padding rows and the order of rows change nothing that is sent"""
    few, many = delta_of(3), delta_of(3, padding=9)
    one, first = codec.encode(few, codec.states[1], jax.random.key(0))
    other, second = codec.encode(many, codec.states[1], jax.random.key(0))
    what = "{} with 9 padding rows (ids of 23, values NaN), and with 2"
    if codec.transform.counted:
        bits = int(num_bits(other)), int(num_bits(one))
        require(
            bits[0] == bits[1],
            what.format(f"{bits[0]} bits instead of {bits[1]} are sent"),
        )
    check_close(
        dense(codec.transform.decode(other)),
        dense(codec.transform.decode(one)),
        what.format("the decoded delta"),
        atol=1e-6,
        rtol=1e-7,
    )
    check_close(second, first, what.format("the state"), atol=1e-6, rtol=1e-7)


def pure_under_jit_and_vmap(codec: Codec) -> None:
    """Clients encode the same alone, under jit and under vmap"""
    transform, state = codec.transform, codec.states[1]
    keys = jax.random.split(jax.random.key(3), 3)
    batch = [delta_of(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batch)

    def through(delta, state, key):
        message, state = transform.encode(delta, state, sender(key))
        return _bits(transform, message), transform.decode(message), state

    together = jax.jit(jax.vmap(through, (0, None, 0)))(stacked, state, keys)
    near = {"atol": 1e-5, "rtol": 1e-7}
    for i, delta in enumerate(batch):
        message, after = codec.encode(delta, state, keys[i])
        alone = _bits(transform, message), transform.decode(message), after
        own = jax.tree.map(lambda x, i=i: x[i], together)
        check_close(own, alone, "a client among three under vmap, and alone", **near)
        again = codec.encode(delta, state, keys[i])[0]
        check_same(again, message, "a message, and the same again")
        if i == 0:
            eager = through(delta, state, keys[i])
            check_close(eager, alone, "a message without jax.jit, and with", **near)


def builds_the_same_twice(codec: Codec) -> None:
    """Building twice gives the same codec"""
    delta, key = delta_of(0), jax.random.key(0)
    again = codec.settings.build(rules.facts())
    encode = jax.jit(lambda delta, state: again.encode(delta, state, sender(key)))
    check_same(
        encode(delta, codec.states[0])[0],
        codec.encode(delta, codec.states[0], key)[0],
        "the message of a codec built again, and of the first",
    )


def _counted(codec: Codec) -> None:
    if not codec.transform.counted:
        raise NotApplicable("counted=False is declared: the message is no encoding")


def _bits(transform: MessageTransform, message: Any) -> Any:
    return num_bits(message) if transform.counted else jnp.uint32(0)


LAWS = (
    builds,
    sends_as_many_bits_as_it_counts,
    decodes_what_was_sent,
    only_fields_are_sent,
    keeps_structure,
    a_row_stays_that_row,
    padding_changes_nothing,
    pure_under_jit_and_vmap,
    builds_the_same_twice,
)
