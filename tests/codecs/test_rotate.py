"""Rotations: orthonormal and undone, and DRIVE's scale and error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from fedjax_rec.codecs.quantize import Float32, Sign
from fedjax_rec.codecs.rotate import Drive, rotated
from tests.codecs.deltas import coded, relative_error

KEY = jax.random.key(0)


@pytest.mark.parametrize("n", [1, 6, 64, 300, 1000])
def test_rotation_is_orthonormal_and_undone(n):
    x = np.random.default_rng(n).normal(size=n).astype(np.float32)
    link = rotated(Float32().link(), 256)
    sent = link.encode(jnp.asarray(x), n, KEY, 0)
    turned = sent["then"]["values"].values
    width = 256 * -(-n // 256) if n > 128 else 2 ** (n - 1).bit_length()
    assert sent["then"]["values"].count == len(turned) == width
    np.testing.assert_allclose(np.linalg.norm(turned), np.linalg.norm(x), rtol=1e-5)
    np.testing.assert_allclose(link.decode(sent, n, n), x, atol=1e-5)


@pytest.mark.parametrize("block", [8, 256, 1024])
def test_rotation_is_the_hadamard_matrix_times_random_signs(block):
    link = rotated(Float32().link(), block)
    encode = jax.vmap(lambda x: link.encode(x, block, KEY, 0))
    columns = np.asarray(encode(jnp.eye(block))["then"]["values"].values)
    plain = linalg.hadamard(block) / np.sqrt(block)
    for column, expected in zip(columns, plain, strict=True):
        match = np.allclose(column, expected, atol=1e-6)
        assert match or np.allclose(column, -expected, atol=1e-6)


def test_drive_keeps_the_projection_and_beats_plain_signs():
    x = np.random.default_rng(0).normal(size=1024) ** 3
    result, bits = coded(Drive(block=256), x)
    assert bits == 32 + 1024 + 4 * 32
    # <x, C(x)> = ||x||^2, the scale's definition, block by block.
    for a, b in zip(np.split(x, 4), np.split(result, 4), strict=True):
        assert a @ b == pytest.approx(a @ a, rel=1e-4)
    # Signs of a rotated vector, near Gaussian, leave pi / 2 - 1.
    keys = [jax.random.key(i) for i in range(10)]
    errors = [relative_error(x, coded(Drive(block=256), x, k)[0]) for k in keys]
    error = np.mean(errors)
    assert error == pytest.approx(np.pi / 2 - 1, rel=0.1)
    plain, _ = coded(Sign(bucket=256, scale="projection", feedback="none"), x)
    assert relative_error(x, plain) > 2 * error
