"""Rows on which the assumed share of attackers is broken, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec.aggregators.robust.medians import TrimmedMean
from fedjax_rec.aggregators.robust.voting import (
    assumed_attackers,
    broken_probability,
    few_tolerate,
    majority_tolerates,
    row_report,
)


def test_floor_of_a_share_in_float32():
    n = jnp.arange(2000)
    for share in (0.1, 0.3, 0.29, 0.07, 0.49):
        want = [int(np.floor(round(share * 100) * k / 100)) for k in range(2000)]
        assert assumed_attackers(n, share).tolist() == want
        assert assumed_attackers(np.arange(2000), share).tolist() == want


@pytest.mark.parametrize("share", [0.4996, 0.49996, 0.4999999])
def test_fewer_than_half_are_assumed_to_be_attackers(share):
    """Exactly `floor(share n)` here, for whole numbers below 1 / (1 - 2 share)."""
    for n in (np.arange(1000), jnp.arange(1000)):
        assumed = np.asarray(assumed_attackers(n, share))
        assert (2 * assumed <= np.maximum(np.arange(1000) - 1, 0)).all()
        assert assumed[:4].tolist() == [0, 0, 0, 1]


def test_trimming_nearly_half_leaves_the_median(fold):
    x = np.repeat(np.array([[1.0], [3.0]], np.float32), 14, axis=1)
    result, _, _ = fold(TrimmedMean(share=0.49996), x)
    np.testing.assert_allclose(result, 2.0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4])
def test_binomial_tails(share):
    voters = np.arange(1, 201)
    got = broken_probability(majority_tolerates, share, 200)
    want = stats.binom.sf((voters - 1) // 2, voters, share)
    np.testing.assert_allclose(got[1:], want, rtol=1e-9, atol=1e-12)
    assert got[0] == 0


def test_a_report_by_hand():
    """Rows of 0, 1, 2, 3 and 5 voters under a median; each an attacker with 1/10.

    One or two voters: one attacker breaks the row. Three withstand one, five two.
    """
    report = row_report(
        [jnp.array([0, 1, 2]), jnp.array([3, 5])], majority_tolerates, 0.1, 5
    )
    assert float(report["touched_rows"]) == 4
    assert float(report["fragile_rows"]) == 2
    assert float(report["fragile_share"]) == 0.5
    three = 3 * 0.01 * 0.9 + 0.001
    five = 10 * 0.001 * 0.81 + 5 * 0.0001 * 0.9 + 0.00001
    want = 0.1 + (1 - 0.81) + three + five
    np.testing.assert_allclose(report["broken_rows"], want, rtol=1e-5)
    np.testing.assert_allclose(report["broken_share"], want / 4, rtol=1e-5)


def test_a_rule_reports_the_rows_it_voted_on(fold):
    """Trimming a quarter withstands one attacker among four to seven voters."""
    touched = np.zeros((7, 5), bool)
    touched[:6, 0] = touched[:4, 1] = touched[:3, 2] = touched[6, 4] = True
    x = np.ones((7, 14), np.float32)
    rule = TrimmedMean(share=0.25, voting="voters")
    _, _, info = fold(rule, x, touched=touched)
    assert float(info["touched_rows"]) == 4
    assert float(info["fragile_rows"]) == 2
    tails = stats.binom.sf([1, 1, 0, 0], [6, 4, 3, 1], 0.25)
    np.testing.assert_allclose(info["broken_rows"], tails.sum(), rtol=1e-5)
    fewer = TrimmedMean(share=0.25, voting="voters", attackers=0.1)
    _, _, info = fold(fewer, x, touched=touched)
    tails = stats.binom.sf([1, 1, 0, 0], [6, 4, 3, 1], 0.1)
    np.testing.assert_allclose(info["broken_rows"], tails.sum(), rtol=1e-5)
    _, _, info = fold(TrimmedMean(share=0.25), x, touched=touched)
    assert "touched_rows" not in info


def test_krum_and_bulyan_by_hand():
    voters = np.arange(16)
    # 2 f + 3 <= v and f <= .4 v: three of nine, but two of eight; six of fifteen.
    want = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]
    assert few_tolerate(0.4, 2)(voters).tolist() == want
    assert few_tolerate(0.4, 2)(jnp.arange(16)).tolist() == want
    want = [0] * 7 + [1] * 4 + [2] * 4 + [3]
    assert (
        few_tolerate(0.24, 4)(voters).tolist()
        == np.minimum(want, (voters * 0.24).astype(int)).tolist()
    )
