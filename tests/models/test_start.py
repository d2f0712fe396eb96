"""The first value of the map to user vectors: principal axes, whitened."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core.contracts import Params
from fedjax_rec.models.item_tower import cached_tower
from fedjax_rec.models.start import RIDGE, principal
from fedjax_rec.models.two_tower import two_tower


def test_a_step_from_zero_is_ridge_regression():
    """On all axes, a user one step from zero ranks as a ridge regression does."""
    rng = np.random.default_rng(0)
    items, width = 30, 6
    e = rng.normal(size=(items, width)) * [3, 2, 1, 0.5, 0.2, 0.1] + 4
    projection, center = principal(e, width)
    model = two_tower(
        cached_tower(),
        num_items=items,
        projection=jnp.asarray(projection),
        center=jnp.asarray(center, jnp.float32),
        group=1,
        loss="bce",
    )
    frozen = {"embedding": jnp.asarray(e, jnp.float32)}
    params = model.init(jax.random.key(0))
    liked = [3, 11, 17]
    label = np.isin(np.arange(items), liked)
    batch = {
        "text": jnp.arange(items),
        "item": jnp.arange(items),
        "label": jnp.asarray(label, jnp.float32),
        "mask": jnp.ones(items, bool),
    }
    slope = jax.grad(
        lambda own: model.loss(
            Params(shared=params.shared, personal=own), frozen, batch, batch["mask"], {}
        )[0]
    )(params.personal)
    moved = Params(shared=params.shared, personal={"user": -slope["user"]})
    scores = np.asarray(model.score(moved, frozen, {"user": jnp.int32(0)}, None))
    # (E^T E + penalty)^-1 E^T y, with E and y about their means.
    x = e - e.mean(0)
    penalty = RIDGE * (x**2).sum() / width
    w = np.linalg.solve(x.T @ x + penalty * np.eye(width), x.T @ (label - label.mean()))
    expected = x @ w
    ratio = np.linalg.norm(scores) / np.linalg.norm(expected)
    atol = 2e-5 * np.abs(scores).max()
    np.testing.assert_allclose(scores, ratio * expected, atol=atol)
    assert (np.argsort(scores) == np.argsort(expected)).all()
    assert ratio > 0


def test_principal_axes_by_hand():
    rng = np.random.default_rng(1)
    e = rng.normal(size=(50, 8)) * np.arange(8, 0, -1)
    projection, center = principal(e, 3)
    assert projection.dtype == np.float32
    np.testing.assert_allclose(center, e.mean(0))
    cov = np.cov(e.T, bias=True)
    values, vectors = np.linalg.eigh(cov)
    values, vectors = values[::-1][:3], vectors[:, ::-1][:, :3]
    floor = RIDGE * np.trace(cov) / 8
    scale = 1 / np.sqrt(values + floor) / np.sqrt((values / (values + floor)).sum())
    for j in range(3):
        axis = projection[:, j] / scale[j]
        sign = np.sign(vectors[:, j].sum())
        np.testing.assert_allclose(axis, sign * vectors[:, j], atol=1e-5)
    # Vectors of norm about 1, and the same every time.
    z = (e - center) @ projection
    assert (z**2).sum(1).mean() == pytest.approx(1, rel=1e-4)
    again, _ = principal(e.copy(), 3)
    np.testing.assert_array_equal(projection, again)
    with pytest.raises(ValueError, match="dim=9: expected at most 8, for 50 texts"):
        principal(e, 9)
