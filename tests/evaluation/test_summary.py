"""Hand-computed spreads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.evaluation.summary import dispersion


def test_hand_computed():
    values = jnp.array([4.0, 1.0, 3.0, 2.0])
    got = dispersion(values, jnp.ones(4, bool))
    # 2i - n - 1 = -3, -1, 1, 3 on 1, 2, 3, 4: (-3 - 2 + 3 + 12) / (4 * 10)
    expected = {"mean": 2.5, "worst_decile": 1.0, "gini": 0.25, "std": np.sqrt(1.25)}
    assert got == pytest.approx(expected)


@pytest.mark.parametrize(("n", "lowest"), [(1, 1), (9, 1), (19, 1), (20, 2), (35, 3)])
def test_worst_decile_is_the_lowest_tenth_at_least_one(n, lowest):
    values = np.random.default_rng(n).random(n).astype(np.float32)
    got = dispersion(jnp.asarray(values), jnp.ones(n, bool))["worst_decile"]
    np.testing.assert_allclose(got, np.sort(values)[:lowest].mean(), rtol=1e-6)


def test_gini_is_half_the_relative_mean_difference():
    values = np.random.default_rng(0).random(50)
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    got = dispersion(jnp.asarray(values, jnp.float32), jnp.ones(50, bool))["gini"]
    np.testing.assert_allclose(got, pairs / (2 * values.mean()), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_equal_values_have_no_spread(value):
    got = dispersion(jnp.full(7, value, jnp.float32), jnp.ones(7, bool))
    assert got["gini"] == pytest.approx(0.0, abs=1e-6)
    assert got["std"] == pytest.approx(0.0, abs=1e-6)
    assert got["worst_decile"] == pytest.approx(value)


@pytest.mark.parametrize("filler", [0.0, 9.0, np.nan, np.inf])
def test_masked_clients_are_inert(filler):
    values = np.random.default_rng(1).random(25).astype(np.float32)
    padded = jnp.asarray(np.insert(values, [0, 10, 25], filler))
    mask = jnp.asarray(np.insert(np.ones(25, bool), [0, 10, 25], False))
    expected = dispersion(jnp.asarray(values), jnp.ones(25, bool))
    for got in (dispersion(padded, mask), jax.jit(dispersion)(padded, mask)):
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


def test_nobody_measured_is_nan_not_zero():
    got = dispersion(jnp.ones(3), jnp.zeros(3, bool))
    assert np.isnan([got["mean"], got["worst_decile"], got["std"]]).all()
