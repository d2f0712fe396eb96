"""Deep gradient compression by hand, and against error feedback."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.codecs.dgc import DGC
from fedjax_rec.codecs.sparsify import TopK
from tests.codecs.deltas import CONTEXT, delta, dense, run, sender


def build(settings):
    return settings.build(CONTEXT)


def test_dgc_by_hand():
    codec = build(DGC(fractions=(0.5,), momentum=0.5))
    state, client = codec.init({"w": jnp.zeros(2)}), sender(jax.random.key(0))
    decoded, held, momentum = [], [], []
    for x in ([4.0, 1.0], [0.0, 1.0], [0.0, 0.0]):
        message, state = codec.encode({"w": jnp.array(x)}, state, client)
        decoded.append(codec.decode(message)["w"].tolist())
        held.append(state["held"].tree["w"].tolist())
        momentum.append(state["momentum"].tree["w"].tolist())
    # 1: u = v = (4, 1); the first number is sent, and its momentum ends.
    # 2: u = (0, 1.5), v = (0, 2.5); the second is sent. 3: u = v = 0.
    assert decoded == [[4, 0], [0, 2.5], [0, 0]]
    assert held == [[0, 1], [0, 0], [0, 0]]
    assert momentum == [[0, 1], [0, 0], [0, 0]]


def test_dgc_warms_up_by_its_own_messages():
    codec = build(DGC(fractions=(0.5, 0.25, 0.1)))
    state, sent = codec.init({"w": jnp.zeros(40)}), []
    encode = jax.jit(codec.encode)
    for i in range(5):
        x = jax.random.normal(jax.random.key(i), (40,))
        message, state = encode({"w": x}, state, sender(jax.random.key(0)))
        sent.append(int((codec.decode(message)["w"] != 0).sum()))
    assert sent == [20, 10, 4, 4, 4]


@pytest.mark.parametrize("scope", ["leaf", "all"])
def test_dgc_without_momentum_is_error_feedback(scope):
    a, _ = run(build(DGC(fractions=(0.2,), momentum=0.0, scope=scope)), 5)
    b, _ = run(build(TopK(fraction=0.2, scope=scope)), 5)
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_dgc_clips_the_norm_of_all_leaves():
    decoded, _ = run(build(DGC(fractions=(1.0,), momentum=0.0, clip=0.5)), 1)
    whole = dense(delta(0))
    np.testing.assert_allclose(
        decoded[0], whole * 0.5 / np.linalg.norm(whole), rtol=1e-5, atol=1e-7
    )
