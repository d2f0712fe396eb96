"""Sizes to the bit, against messages worked out by hand and the serializer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.codecs.wire import coded_ids, floats, num_bits, unsigned
from fedjax_rec.testing.wire_stream import deserialize, serialize, to_bits

ROOM = 40
code = jax.jit(coded_ids)


def ids_field(ids, room=ROOM):
    padded = np.full(room, 2**31 - 1, np.int32)
    padded[: len(ids)] = ids
    return code(padded, len(ids))


@pytest.mark.parametrize(
    ("ids", "stream"),
    [
        # way 2 bits, parameter 5, count + 1 in gamma code, then the ids
        ([], "00 00000 1"),
        ([0], "00 00000 010"),  # a width of 0
        ([5], "00 00011 010 101"),
        ([0, 1, 2, 3, 4, 5], "01 00000 00111 111111"),  # bitmap
        ([3, 7, 11, 15], "10 00001 00101 011 011 011 011"),  # Rice, gaps of 3
        # gaps 0, 0, 0, 0, 62: gamma takes 1 each, and 11
        ([0, 1, 2, 3, 66], "11 00000 00110 1 1 1 1 00000111111"),
    ],
)
def test_ids_take_the_cheapest_way(ids, stream):
    field = ids_field(ids)
    bits = "".join(map(str, to_bits(field)))
    stream = stream.replace(" ", "")
    assert bits == stream
    assert len(bits) == int(field.bits)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(
        st.sets(st.integers(0, 60), max_size=ROOM),
        st.sets(st.integers(0, 5000), max_size=ROOM),
        st.sets(st.integers(0, 2**31 - 2), max_size=ROOM),
    )
)
def test_ids_are_counted_and_read_back(ids):
    ids = sorted(ids)
    field = ids_field(ids)
    if ids and ids[-1] > 10**6:  # too long for the serializer's bitmap: only count
        widths = [(b - a).bit_length() for a, b in zip([-1, *ids], ids, strict=False)]
        gamma = sum(2 * w - 1 for w in widths)
        header = 8 + 2 * ((len(ids) + 1).bit_length() - 1)
        fixed = len(ids) * ids[-1].bit_length()
        assert int(field.bits) <= header + min(fixed, gamma)
        return
    assert len(to_bits(field)) == int(field.bits)
    read = deserialize(serialize(field), field)
    assert int(read.count) == len(ids)
    assert read.values[: len(ids)].tolist() == ids


@pytest.mark.parametrize(
    ("field", "stream"),
    [
        (unsigned(jnp.array([5, 0, 7, 1]), 3, 3), "101000111"),
        (floats(jnp.array([1.0, 9.0]), 1), "0" + "01111111" + "0" * 23),
        (floats(jnp.array([-1.5]), 1, "bfloat16"), "1" + "01111111" + "1000000"),
        (unsigned(jnp.array([True, False, True]), 2, 1), "10"),
        (unsigned(jnp.array([2**32 - 1], jnp.uint32), 1, 32), "1" * 32),
    ],
)
def test_fixed_widths(field, stream):
    assert "".join(map(str, to_bits(field))) == stream
    assert int(num_bits(field)) == len(stream)


def test_a_message_is_its_fields_one_after_the_other():
    message = {
        "a": unsigned(jnp.array([1, 2]), 2, 2),
        "b": (coded_ids(jnp.array([3]), 1), jnp.zeros(3)),
    }
    assert "".join(map(str, to_bits(message))) == "0110" + "00" + "00010" + "010" + "11"
    assert int(num_bits(message)) == 16
    assert serialize(message) == bytes([0b01100000, 0b01001011])


def test_bytes_of_another_codec_are_refused():
    field = unsigned(jnp.arange(8), 8, 4)
    with pytest.raises(ValueError, match="ends at bit 24"):
        deserialize(serialize(field)[:3], field)
    with pytest.raises(ValueError, match="8 bits follow"):
        deserialize(serialize(field) + b"\0", field)


def test_unknown_codes_and_widths_are_refused():
    with pytest.raises(ValueError, match="width=33: expected 1 to 32 bits"):
        unsigned(jnp.arange(3), 3, 33)
    with pytest.raises(ValueError, match="code='float64': expected one of"):
        floats(jnp.zeros(3), 3, "float64")
