"""Activations against those of JAX."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.backbones.nonlinear import ACTIVATIONS


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_and_their_slopes(name):
    x = jnp.linspace(-6, 6, 101)
    expected = {
        "gelu": partial(jax.nn.gelu, approximate=False),
        "gelu_new": partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
    }[name]
    found = ACTIVATIONS[name]
    np.testing.assert_allclose(found(x), expected(x), rtol=0, atol=5e-7)
    slopes = [jax.vmap(jax.grad(f))(x) for f in (found, expected)]
    np.testing.assert_allclose(*slopes, rtol=0, atol=1e-6)
