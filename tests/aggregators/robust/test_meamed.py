"""MeaMed against its definition in NumPy, and under attack."""

import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.meamed import MeaMed

I, D, P = 5, 2, 14  # noqa: E741


def around_median(votes, share):
    """`[P]` from `[n, P]`, one coordinate after another."""
    n = len(votes)
    kept = n - int(share * n + 1e-4)
    result = []
    for column in votes.T.astype(np.float64):
        nearest = sorted(column, key=lambda x: abs(x - np.median(column)))[:kept]
        result.append(np.mean(nearest))
    return np.array(result)


def cohort(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.0, (n, P)).astype(np.float32)
    x[rng.choice(n, 2, replace=False)] *= -7
    return x


@pytest.mark.parametrize("share", [0.1, 0.2, 0.45])
@pytest.mark.parametrize("n", [11, 13])
def test_against_numpy_with_absent_clients_between(n, share, fold):
    for seed in range(3):
        x = cohort(seed, 15)
        weights = np.zeros(15)
        weights[np.random.default_rng(seed).permutation(15)[:n]] = 3.0
        result, _, _ = fold(MeaMed(share=share), x, weights)
        expected = around_median(x[weights > 0], share)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("voting", ["voters", "diluted"])
def test_a_row_drops_a_share_of_its_own_voters(voting, fold):
    x = cohort(3, 13)
    touched = np.random.default_rng(4).random((13, I)) < 0.6
    touched[:, 1] = False
    rule = MeaMed(share=0.3, voting=voting)
    result, _, _ = fold(rule, x, touched=touched)
    for i in range(I):
        columns = slice(i * D, i * D + D)
        votes = x[touched[:, i], columns]
        expected = around_median(votes, 0.3) if len(votes) else np.zeros(D)
        scale = len(votes) / 13 if voting == "diluted" else 1
        np.testing.assert_allclose(result[columns], scale * expected, rtol=1e-5)
    expected = around_median(x[:, I * D :], 0.3)
    np.testing.assert_allclose(result[I * D :], expected, rtol=1e-5)


def test_equally_near_numbers_share_the_last_places(fold):
    x = np.repeat(np.array([[-1.0], [0], [0], [1]], np.float32), P, axis=1)
    # Three of four stay: both zeros, and half of each of the others.
    np.testing.assert_array_equal(fold(MeaMed(share=0.25), x)[0], np.zeros(P))
    x[3] = 5
    result, _, _ = fold(MeaMed(share=0.25), x)
    np.testing.assert_allclose(result, np.full(P, -1 / 3), rtol=1e-6)


def test_share_0_is_the_uniform_mean(fold):
    x = cohort(5, 9)
    result, _, _ = fold(MeaMed(share=0), x)
    expected, _, _ = fold(Mean(weights="uniform"), x)
    np.testing.assert_allclose(result, expected, atol=1e-5)


def test_attackers_within_the_share_leave_the_result_among_the_honest(fold):
    x = np.random.default_rng(6).normal(size=(11, P)).astype(np.float32)
    x[[2, 7]] = [[1e30], [-2e30]]
    honest = np.delete(x, [2, 7], axis=0)
    result, _, _ = fold(MeaMed(share=0.2), x)
    # Exactly the honest numbers are averaged.
    np.testing.assert_allclose(result, honest.mean(0), atol=1e-5)
    x[:5] = 1e30  # more than the share
    result, _, _ = fold(MeaMed(share=0.2), x)
    assert np.abs(result).min() > 1e20


@pytest.mark.parametrize("share", [-0.1, 0.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="expected a number in"):
        MeaMed(share=share)
