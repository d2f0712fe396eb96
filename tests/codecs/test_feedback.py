"""Feedback between messages: sums telescope, and small cases by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.feedback import ef21, error_feedback
from fedjax_rec.codecs.natural import NaturalCompression
from fedjax_rec.codecs.quantize import QSGD, BlockInt, Sign, TernGrad
from fedjax_rec.codecs.rotate import Drive, RotatedQSGD
from fedjax_rec.codecs.sparsify import RandomK, RowTopK, TopK
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from tests.codecs.deltas import CONTEXT, SHARED, I, delta, dense, run, sender


def encode(codec, values, state):
    """`(decoded, message, state)` of a dense leaf."""
    message, state = codec.encode(
        {"w": jnp.array(values)}, state, sender(jax.random.key(0))
    )
    return codec.decode(message)["w"].tolist(), message, state


THEN = TopK(fraction=0.5, then=QSGD(), feedback="none")
INNER = {
    "top-k": TopK(fraction=0.2).plain(),
    "global top-k": TopK(fraction=0.2, scope="all").plain(),
    "rows, then top-k, then qsgd": RowTopK(fraction=0.5, then=THEN).plain(),
    "signs": Sign().plain(),
}


@pytest.mark.parametrize("name", INNER)
def test_error_feedback_telescopes(name):
    decoded, states = run(error_feedback(INNER[name]), 6)
    expected = sum(dense(delta(i)) for i in range(6))
    residual = dense(states[-1]["residual"].tree)
    np.testing.assert_allclose(sum(decoded) + residual, expected, atol=1e-5)
    assert np.abs(residual).max() > 0.01
    assert np.abs(residual).max() < 20  # no value of the padding


def test_error_feedback_by_hand():
    codec = error_feedback(TopK(fraction=1 / 3).plain())
    state, results = codec.init({"w": jnp.zeros(3)}), []
    for x in ([3.0, 2.0, -1.0], [0.0, 2.0, -1.0], [0.0, 0.0, -1.0]):
        decoded, _, state = encode(codec, x, state)
        results.append(decoded)
    assert results == [[3, 0, 0], [0, 4, 0], [0, 0, -3]]
    assert state["residual"].tree["w"].tolist() == [0, 0, 0]


def test_a_row_that_is_not_touched_keeps_its_residual():
    codec = error_feedback(RowTopK(fraction=0.5).plain())
    client = sender(jax.random.key(0))

    def change(ids, values):
        table = rows.Rows(
            ids=jnp.array(ids), values=jnp.array(values, jnp.float32), num_rows=I
        )
        return {"item": table, "w": jnp.zeros((3, 2))}

    state = codec.init(SHARED)
    _, state = codec.encode(change([7, 3], [[1, 0], [5, 0]]), state, client)
    assert state["residual"].tree["item"].values[7].tolist() == [1, 0]
    _, state = codec.encode(change([4, I], [[2, 0], [9, 9]]), state, client)
    assert state["residual"].tree["item"].values[7].tolist() == [1, 0]
    message, state = codec.encode(change([7, I], [[1, 2], [9, 9]]), state, client)
    assert codec.decode(message)["item"].values[0].tolist() == [2, 2]
    assert not state["residual"].tree["item"].values.any()


def test_ef21_by_hand_and_its_cost():
    codec = ef21(TopK(fraction=0.5).plain())
    state, results = codec.init({"w": jnp.zeros(2)}), []
    for x in ([3.0, 2.0], [3.0, 2.0], [1.0, 2.0]):
        decoded, message, state = encode(codec, x, state)
        results.append(decoded)
        # One id of width 0 or 1 after its header, and one float; the estimate is known.
        assert int(num_bits(message)) in (10 + 32, 11 + 32)
    assert results == [[3, 0], [3, 2], [1, 2]]
    assert state["estimate"].tree["w"].tolist() == results[-1]


@pytest.mark.parametrize("name", ["top-k", "global top-k", "signs"])
def test_ef21_converges_on_a_delta_that_stays(name):
    decoded, states = run(ef21(INNER[name]), 60, lambda i: delta(0))
    truth = dense(delta(0))
    errors = [np.square(d - truth).sum() for d in decoded]
    assert all(b <= a * 1.0001 for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-3 * errors[0]
    np.testing.assert_allclose(
        dense(states[-1]["estimate"].tree), decoded[-1], atol=1e-6
    )


@pytest.mark.parametrize(
    ("feedback", "group"),
    [("none", None), ("ef", "residual"), ("ef21", "estimate")],
)
def test_settings_choose_the_feedback(feedback, group):
    codec = TopK(fraction=0.2, feedback=feedback).build(CONTEXT)
    state = codec.init(SHARED)
    assert (group in state) if group else not jax.tree.leaves(state)


MAGNIFYING = {
    "qsgd l2": QSGD(norm="l2"),
    "rotated qsgd l2": RotatedQSGD(norm="l2", bits=2),
}
CONTRACTING = {
    "int4": BlockInt(bits=4),
    "natural": NaturalCompression(),
    "qsgd": QSGD(),
    "terngrad": TernGrad(),
    "terngrad without a clip": TernGrad(clip=None),
    "drive": Drive(),
    "random-k": RandomK(fraction=0.3),
    "random-k, then qsgd l2": RandomK(fraction=0.3, then=QSGD(norm="l2")),
    "top-k, then terngrad": TopK(fraction=0.3, then=TernGrad(clip=None)),
    "rows, then qsgd l2": RowTopK(fraction=0.3, then=QSGD(norm="l2")),
}


def constant(codec, messages):
    """`(delta [700], decoded [messages, 700], state)` of equal messages."""
    x = {"w": jax.random.normal(jax.random.key(9), (700,))}

    def send(state, key):
        message, state = codec.encode(x, state, sender(key))
        return state, codec.decode(message)["w"]

    keys = jax.random.split(jax.random.key(1), messages)
    state, decoded = jax.jit(lambda s: jax.lax.scan(send, s, keys))(codec.init(x))
    return np.asarray(x["w"]), np.asarray(decoded), state


@pytest.mark.parametrize("name", MAGNIFYING | CONTRACTING)
def test_under_feedback_every_codec_contracts(name):
    """The residual of a constant delta stays; without a smaller scale it would grow."""
    settings = (MAGNIFYING | CONTRACTING)[name]
    plain = settings.plain()
    x, decoded, state = constant(error_feedback(plain), 60)
    residual = np.asarray(state["residual"].tree["w"])
    np.testing.assert_allclose(decoded.sum(0) + residual, 60 * x, atol=1e-2)
    # At most 2 / d for a contraction by 1 - d, here d > 0.1.
    assert np.linalg.norm(residual) < 20 * np.linalg.norm(x)
    _, decoded, _ = constant(ef21(plain), 60)
    assert np.linalg.norm(decoded[-1] - x) < 0.3 * np.linalg.norm(x)
    if name in MAGNIFYING:
        unscaled = error_feedback(plain._replace(contracting=None))
        residual = np.asarray(constant(unscaled, 60)[2]["residual"].tree["w"])
        assert not np.abs(residual).max() < 100 * np.abs(x).max()


def test_dgc_holds_back_no_more_than_feedback_does():
    codec = DGC(fractions=(0.3,), momentum=0.0, then=QSGD(norm="l2")).build(CONTEXT)
    x, _, state = constant(codec, 60)
    assert np.linalg.norm(state["held"].tree["w"]) < 20 * np.linalg.norm(x)
