"""Sparsifiers: what stays, by hand and by their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.codecs import (
    chain,
    float32,
    joined,
    leafwise,
    num_bits,
    qsgd,
    random_k,
    row_top_k,
    threshold,
    top_k,
)
from fedjax_rec.core import rows

KEY = jax.random.key(0)


def through(codec, delta, key=KEY):
    message, _ = codec.encode(delta, (), key)
    return codec.decode(message)


def vector(codec, x, key=KEY):
    return np.asarray(through(codec, {"w": jnp.asarray(x, jnp.float32)}, key)["w"])


def touched(ids, values, num_rows=10):
    return rows.Rows(
        ids=jnp.asarray(ids), values=jnp.asarray(values), num_rows=num_rows
    )


def test_top_k_by_hand():
    x = [[1.0, -5.0, 2.0], [4.0, 0.0, -4.0]]
    np.testing.assert_array_equal(
        vector(leafwise(top_k(0.5)), x), [[0, -5, 0], [4, 0, -4]]
    )
    # Of equals the first; ceil(0.2 * 6) = 2.
    np.testing.assert_array_equal(
        vector(leafwise(top_k(0.2)), x), [[0, -5, 0], [4, 0, 0]]
    )


@pytest.mark.parametrize("fraction", [0.01, 0.25, 1.0])
def test_top_k_contracts_and_equal_entries_meet_the_bound(fraction):
    rng = np.random.default_rng(0)
    codec = leafwise(top_k(fraction))
    for x in (rng.normal(size=200), np.exp(rng.normal(size=200)), np.full(200, 3.0)):
        left = np.square(x - vector(codec, x)).sum() / np.square(x).sum()
        bound = 1 - np.ceil(fraction * 200 - 1e-9) / 200
        assert left <= bound + 1e-6
    assert left == pytest.approx(bound, abs=1e-6)


def test_one_budget_for_all_leaves_is_a_top_k_of_the_whole():
    rng = np.random.default_rng(1)
    table, dense = rng.normal(size=(3, 2)), 3 * rng.normal(size=(4,))
    delta = {
        "a": touched([7, 10, 2, 10, 5], np.insert(table, [1, 2], 99.0, axis=0)),
        "b": jnp.asarray(dense, jnp.float32),
    }
    got = through(joined(top_k(0.3)), delta)  # 3 of 10 real entries
    whole = np.concatenate([dense, table[[1, 2, 0]].ravel()]).astype(np.float32)
    cut = np.sort(np.abs(whole))[-3]
    want = np.where(np.abs(whole) >= cut, whole, 0)
    np.testing.assert_array_equal(got["b"], want[:4])
    np.testing.assert_array_equal(got["a"].ids, [2, 5, 7, 10, 10])
    np.testing.assert_array_equal(np.ravel(got["a"].values[:3]), want[4:])
    assert not np.asarray(got["a"].values[3:]).any()


def test_threshold_by_hand():
    x = [0.5, -2.0, 0.0, 1.0, -0.9, 3.0]
    codec = leafwise(threshold(1.0))
    np.testing.assert_array_equal(vector(codec, x), [0, -2, 0, 1, 0, 3])
    few = leafwise(threshold(0.4, most=0.5))  # five reach it, three fit
    np.testing.assert_array_equal(vector(few, x), [0, -2, 0, 1, 0, 3])
    # Nothing reaches it: 8 bits of an empty list of ids.
    message, _ = leafwise(threshold(9.0)).encode({"w": jnp.asarray(x)}, (), KEY)
    assert int(num_bits(message)) == 8


def test_whole_rows_by_their_norm():
    values = np.array([[3.0, 4], [0, 1], [9, 9], [6, 0], [-2, 2]], np.float32)
    delta = {"t": touched([8, 3, 10, 1, 4], values), "w": jnp.ones(3)}
    got = through(leafwise(row_top_k(0.5)), delta)  # 2 of 4 rows
    np.testing.assert_array_equal(got["t"].ids, [1, 8, 10])
    np.testing.assert_array_equal(got["t"].values, [[6, 0], [3, 4], [0, 0]])
    np.testing.assert_array_equal(got["w"], np.ones(3))
    then = through(leafwise(row_top_k(0.5), top_k(0.25)), delta)
    np.testing.assert_array_equal(then["t"].values, [[6, 0], [0, 0], [0, 0]])


def test_bits_by_hand():
    delta = {"w": jnp.asarray([0.0, 0, 7, 0, 0, 0, -8, 0, 0, 0])}
    message, _ = leafwise(top_k(0.2)).encode(delta, (), KEY)
    # header 2 + 5 + 3; gaps 2, 3: fixed 2 * 3; two floats
    assert int(num_bits(message)) == 10 + 6 + 64
    message, _ = leafwise(random_k(0.2)).encode(delta, (), KEY)
    assert int(num_bits(message)) == 32 + 64
    message, _ = leafwise().encode({"t": touched([4, 10], [[1.0], [2.0]])}, (), KEY)
    assert int(num_bits(message)) == (2 + 5 + 3) + 3 + 32


@pytest.mark.parametrize(("n", "fraction"), [(12, 0.25), (10, 0.3)])
def test_random_k_is_unbiased_with_the_stated_variance(n, fraction):
    x = np.random.default_rng(0).normal(size=n).astype(np.float32)
    codec = leafwise(random_k(fraction))
    keys = jax.random.split(jax.random.key(1), 20_000)
    got = np.asarray(
        jax.jit(jax.vmap(lambda k: through(codec, {"w": jnp.asarray(x)}, k)["w"]))(keys)
    )
    k = int(np.ceil(fraction * n))
    assert ((got != 0).sum(1) == k).all()
    widths = np.repeat([len(part) for part in np.array_split(x, k)],
                       [len(part) for part in np.array_split(x, k)])  # fmt: skip
    np.testing.assert_allclose(np.unique(got[:, 0]), sorted({0, x[0] * widths[0]}))
    z = (got.mean(0) - x) / (got.std(0) / np.sqrt(len(got)))
    assert np.abs(z).max() < stats.norm.isf(0.001 / 2 / n)  # Bonferroni
    error = np.square(got - x).sum(1).mean()
    assert error == pytest.approx(((widths - 1) * x**2).sum(), rel=0.05)
    assert error <= (np.ceil(n / k) - 1) * np.square(x).sum() * 1.02


def test_random_k_without_scale_keeps_entries_as_they_are():
    x = np.arange(1.0, 21)
    got = vector(leafwise(random_k(0.5, unbiased=False)), x)
    assert set(got) <= {0, *x}
    assert (got > 0).sum() == 10


def test_full_budgets_are_the_identity():
    x = np.random.default_rng(0).normal(size=50).astype(np.float32)
    for stage in (top_k(1.0), random_k(1.0), threshold(1e-30)):
        np.testing.assert_array_equal(vector(leafwise(stage), x), x)


def test_chains_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="passes nothing on; got Quantizer, Stage"):
        chain(qsgd(), top_k(0.1))
    with pytest.raises(ValueError, match="Quantizer, Quantizer"):
        chain(qsgd(), float32())
    with pytest.raises(ValueError, match="Stage, RowStage"):
        chain(top_k(0.1), row_top_k(0.1))
    with pytest.raises(ValueError, match="got function: call the factory"):
        chain(top_k)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="positive"):
        threshold(0.0)
    unknown = rows.Rows(ids=jnp.arange(2), values=jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"rows\.merge_repeats"):
        leafwise().encode({"t": unknown}, (), KEY)


def test_chains_in_chains_and_what_the_next_link_gets():
    x = np.array([0.1, 8.0, -0.2, 4.0, 0.3, 0.0])
    # The largest of what is kept is 8: its levels at 4 bits are 8 / 7 apart.
    codec = leafwise(chain(chain(top_k(0.5)), qsgd(bits=4, norm="max")))
    got = vector(codec, x) * 7 / 8
    assert got[1] == pytest.approx(7)
    assert min(abs(got[3] - 3), abs(got[3] - 4)) < 1e-6
    assert not got[[0, 2, 5]].any()
