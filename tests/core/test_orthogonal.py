"""Gram and Schmidt, and subspace iteration, against NumPy's LAPACK."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.orthogonal import (
    leading_axes,
    orthonormal_columns,
    random_rows,
    symmetric_axes,
)


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (5, 5), (32, 3), (33, 10)])
def test_leading_axes_leave_out_what_an_svd_does(d, rank):
    rng = np.random.default_rng(d)
    falling = rng.normal(size=(3, 60, d)) @ np.diag(0.7 ** np.arange(d))
    flat = rng.normal(size=(1, 60, d))
    batch = np.concatenate([falling, flat, np.zeros((1, 60, d))])
    axes = jax.jit(jax.vmap(lambda m: leading_axes(m, rank)))(
        jnp.asarray(batch, jnp.float32)
    )
    axes = np.asarray(axes, np.float64)
    left = ((batch - batch @ axes @ np.swapaxes(axes, 1, 2)) ** 2).sum((1, 2))
    least = (np.linalg.svd(batch, compute_uv=False)[:, rank:] ** 2).sum(1)
    whole = (batch**2).sum((1, 2))
    assert (left[:3] <= 1.0001 * least[:3] + 1e-9 * whole[:3]).all()
    assert left[3] <= 1.05 * least[3] + 1e-9 * whole[3]
    inner = np.swapaxes(axes, 1, 2) @ axes
    np.testing.assert_allclose(inner[:4], np.stack([np.eye(rank)] * 4), atol=1e-5)


@pytest.mark.parametrize("d", [1, 5, 32])
def test_axes_of_a_symmetric_matrix(d):
    rng = np.random.default_rng(d)
    batch = rng.normal(size=(3, d, d)) * 10.0 ** rng.uniform(-2, 1, size=(3, 1, d))
    batch = np.swapaxes(batch, 1, 2) @ batch
    batch[2] = 0
    values, axes = jax.jit(jax.vmap(symmetric_axes))(jnp.asarray(batch, jnp.float32))
    expected = np.linalg.eigvalsh(batch)[:, ::-1]
    scale = np.maximum(expected[:, :1], 1e-30)
    np.testing.assert_allclose(values / scale, expected / scale, atol=3e-6)
    axes = np.asarray(axes, np.float64)
    np.testing.assert_allclose(
        np.swapaxes(axes, 1, 2) @ axes, np.stack([np.eye(d)] * 3), atol=1e-5
    )
    turned = np.swapaxes(axes, 1, 2) @ batch @ axes
    off = turned - np.stack([np.diag(np.diag(t)) for t in turned])
    assert np.abs(off / scale[..., None]).max() < 3e-6


def test_columns_keep_their_span_and_those_that_depend_become_zero():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    x = np.stack([x[:, 0], x[:, 1], 2 * x[:, 0] - x[:, 1], x[:, 2]], 1)
    q = np.asarray(orthonormal_columns(jnp.asarray(x)))
    reference, r = np.linalg.qr(x[:, [0, 1, 3]])
    np.testing.assert_allclose(
        q[:, [0, 1, 3]], reference * np.sign(np.diag(r)), atol=1e-5
    )
    assert not q[:, 2].any()
    assert not np.asarray(orthonormal_columns(jnp.zeros((4, 2)))).any()


def test_random_rows_are_orthonormal_and_point_everywhere():
    key = jax.random.key(0)
    sample = jax.vmap(lambda k: random_rows(k, 2, 3))(jax.random.split(key, 2000))
    product = np.asarray(sample @ sample.transpose(0, 2, 1))
    np.testing.assert_allclose(product, np.tile(np.eye(2), (2000, 1, 1)), atol=1e-5)
    # A uniform projection onto 2 of 3 dimensions is 2/3 of the identity in the mean;
    # an entry's standard error over 2,000 of them is below .01.
    projection = np.asarray(sample.transpose(0, 2, 1) @ sample).mean(0)
    np.testing.assert_allclose(projection, np.eye(3) * 2 / 3, atol=0.04)
    np.testing.assert_allclose(np.asarray(sample).mean(0), 0, atol=0.06)
    with pytest.raises(ValueError, match="rank=4: expected 1 to 3"):
        random_rows(key, 4, 3)
