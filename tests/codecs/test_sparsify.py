"""Sparsifiers: the numbers they send, by hand and by their bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.codecs.quantize import QSGD, Float32
from fedjax_rec.codecs.sparsify import RandomK, RowTopK, Threshold, TopK, share
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from tests.codecs.deltas import sender

KEY = jax.random.key(0)


def through(settings, delta, key=KEY):
    codec = settings.plain()
    message, _ = codec.encode(delta, (), sender(key))
    return codec.decode(message)


def bits(settings, delta):
    return int(num_bits(settings.plain().encode(delta, (), sender(KEY))[0]))


def vector(settings, x, key=KEY):
    delta = {"w": jnp.asarray(x, jnp.float32)}
    return np.asarray(through(settings, delta, key)["w"])


def touched(ids, values, num_rows=10):
    return rows.Rows(
        ids=jnp.asarray(ids), values=jnp.asarray(values), num_rows=num_rows
    )


def test_top_k_by_hand():
    x = [[1.0, -5.0, 2.0], [4.0, 0.0, -4.0]]
    np.testing.assert_array_equal(
        vector(TopK(fraction=0.5), x), [[0, -5, 0], [4, 0, -4]]
    )
    # Of equals the first; ceil(0.2 * 6) = 2.
    np.testing.assert_array_equal(
        vector(TopK(fraction=0.2), x), [[0, -5, 0], [4, 0, 0]]
    )


@pytest.mark.parametrize("fraction", [0.01, 0.25, 1.0])
def test_top_k_contracts_and_equal_entries_meet_the_bound(fraction):
    rng = np.random.default_rng(0)
    codec = TopK(fraction=fraction)
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
    result = through(TopK(fraction=0.3, scope="all"), delta)  # 3 of 10 real entries
    joint = np.concatenate([dense, table[[1, 2, 0]].ravel()]).astype(np.float32)
    cut = np.sort(np.abs(joint))[-3]
    expected = np.where(np.abs(joint) >= cut, joint, 0)
    np.testing.assert_array_equal(result["b"], expected[:4])
    np.testing.assert_array_equal(result["a"].ids, [2, 5, 7, 10, 10])
    np.testing.assert_array_equal(np.ravel(result["a"].values[:3]), expected[4:])
    assert not np.asarray(result["a"].values[3:]).any()


def test_threshold_by_hand():
    x = [0.5, -2.0, 0.0, 1.0, -0.9, 3.0]
    np.testing.assert_array_equal(vector(Threshold(least=1.0), x), [0, -2, 0, 1, 0, 3])
    few = Threshold(least=0.4, most=0.5)  # five reach it, three fit
    np.testing.assert_array_equal(vector(few, x), [0, -2, 0, 1, 0, 3])
    # No number reaches it: 8 bits of an empty list of ids.
    assert bits(Threshold(least=9.0), {"w": jnp.asarray(x)}) == 8


def test_rows_with_the_largest_norms():
    values = np.array([[3.0, 4], [0, 1], [9, 9], [6, 0], [-2, 2]], np.float32)
    delta = {"t": touched([8, 3, 10, 1, 4], values), "w": jnp.ones(3)}
    result = through(RowTopK(fraction=0.5), delta)  # 2 of 4 rows
    np.testing.assert_array_equal(result["t"].ids, [1, 8, 10])
    np.testing.assert_array_equal(result["t"].values, [[6, 0], [3, 4], [0, 0]])
    np.testing.assert_array_equal(result["w"], np.ones(3))
    quarter = TopK(fraction=0.25, feedback="none")
    then = through(RowTopK(fraction=0.5, then=quarter), delta)
    np.testing.assert_array_equal(then["t"].values, [[6, 0], [0, 0], [0, 0]])


def test_bits_by_hand():
    delta = {"w": jnp.asarray([0.0, 0, 7, 0, 0, 0, -8, 0, 0, 0])}
    # header 2 + 5 + 3; gaps 2, 3: fixed 2 * 3; two floats
    assert bits(TopK(fraction=0.2), delta) == 10 + 6 + 64
    assert bits(RandomK(fraction=0.2), delta) == 32 + 64
    delta = {"t": touched([4, 10], [[1.0], [2.0]])}
    assert bits(Float32(), delta) == (2 + 5 + 3) + 3 + 32


@pytest.mark.parametrize(("n", "fraction"), [(12, 0.25), (10, 0.3)])
def test_random_k_is_unbiased_with_the_stated_variance(n, fraction):
    x = np.random.default_rng(0).normal(size=n).astype(np.float32)
    codec = RandomK(fraction=fraction)
    keys = jax.random.split(jax.random.key(1), 20_000)
    results = np.asarray(
        jax.jit(jax.vmap(lambda k: through(codec, {"w": jnp.asarray(x)}, k)["w"]))(keys)
    )
    k = int(np.ceil(fraction * n))
    assert ((results != 0).sum(1) == k).all()
    lengths = [len(part) for part in np.array_split(x, k)]
    widths = np.repeat(lengths, lengths)
    np.testing.assert_allclose(np.unique(results[:, 0]), sorted({0, x[0] * widths[0]}))
    z = (results.mean(0) - x) / (results.std(0) / np.sqrt(len(results)))
    assert np.abs(z).max() < stats.norm.isf(0.001 / 2 / n)  # Bonferroni
    error = np.square(results - x).sum(1).mean()
    assert error == pytest.approx(((widths - 1) * x**2).sum(), rel=0.05)
    assert error <= (np.ceil(n / k) - 1) * np.square(x).sum() * 1.02


def test_random_k_under_feedback_keeps_entries_as_they_are():
    x = np.arange(1.0, 21)
    codec = RandomK(fraction=0.5).plain().contracting
    assert codec is not None
    message, _ = codec.encode({"w": jnp.asarray(x)}, (), sender(KEY))
    result = np.asarray(codec.decode(message)["w"])
    assert set(result) <= {0, *x}
    assert (result > 0).sum() == 10


@pytest.mark.parametrize(
    "codec", [TopK(fraction=1.0), RandomK(fraction=1.0), Threshold(least=1e-30)]
)
def test_full_budgets_are_the_identity(codec):
    x = np.random.default_rng(0).normal(size=50).astype(np.float32)
    np.testing.assert_array_equal(vector(codec, x), x)


def test_the_next_link_gets_the_numbers_that_are_sent():
    x = np.array([0.1, 8.0, -0.2, 4.0, 0.3, 0.0])
    # The largest number that is sent is 8: its levels at 4 bits are 8 / 7 apart.
    codec = TopK(fraction=0.5, then=QSGD(bits=4))
    result = vector(codec, x) * 7 / 8
    assert result[1] == pytest.approx(7)
    assert min(abs(result[3] - 3), abs(result[3] - 4)) < 1e-6
    assert not result[[0, 2, 5]].any()


def test_shares_are_rounded_up_without_error():
    for fraction in (0.1, 0.01, 0.3, 1 / 64, 0.001, 1.0):
        part = share(fraction)
        for count in (0, 1, 10, 30, 64, 100, 3201, 10**8):
            exact = -(-count * part.over // part.under)
            assert part.of(count) == exact
            assert int(jax.jit(part.of)(count)) == exact
    assert [share(0.1).of(n) for n in (10, 11, 100)] == [1, 2, 10]
    with pytest.raises(ValueError, match=r"between 0\.0001 and 1, got 0"):
        share(0)
