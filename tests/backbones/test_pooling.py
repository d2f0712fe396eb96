"""Pooling by hand, and its gradient."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.backbones import encoder
from fedjax_rec.backbones.encoder import Head
from fedjax_rec.core.backbone import Layout


@pytest.mark.parametrize("mode", encoder.MODES)
def test_pooling_by_hand(mode):
    hidden = np.random.default_rng(0).normal(size=(1, 6, 3)).astype(np.float32) - 2
    segment = jnp.array([[1, 1, 1, 2, 2, 0]])
    layout = Layout(segment=segment, position=jnp.array([[0, 1, 2, 0, 1, 0]]))
    found = encoder.pool(Head(mode), {"head": {}}, jnp.asarray(hidden), layout, 3)
    for g, part in enumerate((hidden[0, :3], hidden[0, 3:5])):
        expected = {
            "mean": part.mean(0),
            "cls": part[0],
            "max": part.max(0),
            "mean_sqrt_len": part.sum(0) / math.sqrt(len(part)),
        }[mode]
        np.testing.assert_allclose(found[0, g], expected, rtol=1e-6)
    assert not found[0, 2].any()


def test_an_absent_text_has_no_nan_in_its_gradient():
    layout = Layout(segment=jnp.array([[1, 0]]), position=jnp.array([[0, 0]]))

    def loss(hidden):
        head = Head("mean", ("normalize",))
        return encoder.pool(head, {"head": {}}, hidden, layout, 2).sum()

    gradient = jax.grad(loss)(jnp.ones((1, 2, 3)) * jnp.arange(3.0))
    # Of the sum of v / |v| with v = (0, 1, 2): (1 - v sum(v) / |v|^2) / |v|.
    np.testing.assert_allclose(
        gradient[0, 0], np.array([1, 0.4, -0.2]) / 5**0.5, rtol=1e-5
    )
    assert not gradient[0, 1].any()
