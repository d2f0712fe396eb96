"""Catalogs encoded row by row, also by devices that share the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core import packing
from fedjax_rec.models import item_tower

LENGTHS = np.array([20, 17, 30, 5, 9, 28, 22, 19, 11, 31, 25])


@pytest.fixture
def encoded(monkeypatch):
    """Encodes a catalog in pieces of one row of 32 tokens: the sum of a text's."""
    monkeypatch.setattr(item_tower, "_TOKENS_PER_STEP", 32)
    values = np.random.default_rng(0).normal(size=(LENGTHS.sum() + 1, 3))
    values[-1] = 0
    texts = np.split(values[:-1], LENGTHS.cumsum()[:-1])
    lists = packing.make_lists([text.astype(np.float32) for text in texts])
    plan = packing.plan(LENGTHS, width=32)
    assert len(plan.index) >= 7

    def encode_rows(index, segment, position):
        segments = jnp.arange(1, plan.per_row + 1)
        own = segment[:, None] == segments[:, None]  # [S, G, W]
        return jnp.einsum("sgw,swd->sgd", own.astype(jnp.float32), lists.values[index])

    def encoded(axis=None):
        padding = len(lists.values) - 1
        return item_tower._encode_plan(encode_rows, plan, padding, axis)

    return encoded, np.stack([text.sum(0) for text in texts])


@pytest.mark.parametrize("devices", [1, 2, 3])
def test_every_device_has_all_vectors_in_the_order_of_items(encoded, devices):
    encode, expected = encoded
    if devices == 1:
        results = encode()[None]
    else:
        results = jax.vmap(lambda _: encode("d"), axis_name="d")(jnp.arange(devices))
    assert results.shape == (devices, len(LENGTHS), 3)
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-5)
