"""Order statistics against NumPy's sort."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.robust import order

HARD = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1.0, -1.0, 1.0, 3e38, -3e38, 1e-38, 5.0, -7.5]
)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_every_rank_of_hard_numbers(dtype):
    with jax.enable_x64():
        x = jnp.asarray(HARD, dtype)[:, None]
        want = np.sort(np.asarray(x[:, 0], np.float64))
        voters = jnp.ones((len(x), 1), bool)
        for rank in range(len(x)):
            got = order.kth_smallest(x, voters, jnp.array([rank]))
            assert got.dtype == dtype
            assert float(got[0]) == want[rank]


@pytest.mark.parametrize("seed", range(4))
def test_columns_with_absent_clients(seed):
    rng = np.random.default_rng(seed)
    c, p = 37, 11
    x = rng.integers(-4, 5, (c, p)) * rng.choice([1.0, 0.25, 1e20], (c, p))
    x = x.astype(np.float32)
    voters = rng.random((c, p)) < rng.random(p)
    voters[:, 0], voters[:, 1] = False, True
    counts = voters.sum(0)
    got = np.asarray(order.median(jnp.asarray(x), jnp.asarray(voters), counts))
    for j in range(p):
        votes = x[voters[:, j], j]
        want = np.median(votes.astype(np.float64)) if len(votes) else 0
        np.testing.assert_allclose(got[j], want, rtol=1e-6)
    num = rng.integers(0, counts + 1)
    share = np.asarray(order.smallest(jnp.asarray(x), jnp.asarray(voters), num))
    np.testing.assert_allclose(share.sum(0), num, rtol=1e-5)
    for j in range(p):
        votes = np.sort(x[voters[:, j], j].astype(np.float64))[: num[j]]
        np.testing.assert_allclose(
            (share[:, j] * x[:, j].astype(np.float64)).sum(),
            votes.sum(),
            rtol=1e-5,
            atol=1e-5 * np.abs(votes).sum(),
        )
        assert (share[~voters[:, j], j] == 0).all()


def test_equal_numbers_share_the_last_places():
    x = jnp.array([[2.0], [1.0], [2.0], [2.0], [9.0]])
    got = order.smallest(x, jnp.ones((5, 1), bool), jnp.array([3]))
    np.testing.assert_allclose(got[:, 0], [2 / 3, 1, 2 / 3, 2 / 3, 0])


@pytest.mark.parametrize("shape", [(7,), (130,), (3, 50), (70, 3), (5, 2, 3)])
def test_blocks_cover_every_column(shape, monkeypatch):
    monkeypatch.setattr(order, "BLOCK", 16)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(9, *shape)).astype(np.float32)
    present = rng.random(9) < 0.7
    got = order.columnwise(order.median, jnp.asarray(x), jnp.asarray(present))
    np.testing.assert_allclose(got, np.median(x[present], 0), rtol=1e-6)
    by_row = rng.random((9, shape[0])) < 0.6
    by_row[0] = True
    got = order.columnwise(order.median, jnp.asarray(x), jnp.asarray(by_row))
    for j in range(shape[0]):
        want = np.median(x[by_row[:, j], j], 0)
        np.testing.assert_allclose(got[j], want, rtol=1e-6)
