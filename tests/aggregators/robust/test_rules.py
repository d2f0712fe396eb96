"""Rules against loops in NumPy, and against byzfl 0.0.11 if it is installed."""

import numpy as np
import pytest

from fedjax_rec.aggregators.robust.clipping import CenteredClipping, NormBound
from fedjax_rec.aggregators.robust.krum import Krum, MultiKrum
from fedjax_rec.aggregators.robust.medians import (
    GeometricMedian,
    Median,
    TrimmedMean,
)
from fedjax_rec.aggregators.robust.neighbours import NNM, Bulyan

P = 14


def cohort(seed, n, far=2):
    rng = np.random.default_rng(seed)
    x = rng.normal(1.0, 1.0, (n, P))
    x[rng.choice(n, far, replace=False)] *= -7.0
    return x.astype(np.float32)


def numpy_krum_scores(x, f, near, power=2):
    n = len(x)
    far = np.linalg.norm(x[:, None] - x[None], axis=-1) ** power
    return np.array(
        [np.sort(np.delete(far[i], i))[: max(near, 1)].sum() for i in range(n)]
    )


def numpy_nnm(x, f):
    far = np.linalg.norm(x[:, None] - x[None], axis=-1)
    near = np.argsort(far, 1)[:, : len(x) - f]
    return x[near].mean(1)


def numpy_trimmed(x, f):
    return np.sort(x, 0)[f : len(x) - f].mean(0)


def numpy_bulyan(x, f):
    left, chosen = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        part = x[left]
        score = numpy_krum_scores(part, f, len(left) - f - 2) if len(left) > 1 else [0]
        chosen.append(left.pop(int(np.argmin(score))))
    chosen_rows = x[chosen]
    near = np.argsort(np.abs(chosen_rows - np.median(chosen_rows, 0)), 0)[
        : len(chosen_rows) - 2 * f
    ]
    return np.take_along_axis(chosen_rows, near, 0).mean(0)


def numpy_weiszfeld(x, steps):
    z = np.median(x, 0)
    for _ in range(steps):
        beta = 1 / np.linalg.norm(x - z, axis=1)
        z = beta @ x / beta.sum()
    return z


def numpy_clipping(x, tau, steps, v=0.0):
    for _ in range(steps):
        moves = x - v
        norms = np.linalg.norm(moves, axis=1)
        limit = np.median(norms) if tau is None else tau
        v = v + (moves * np.minimum(1, limit / norms)[:, None]).mean(0)
    return v


def numpy_multi_krum(x, f, near, chosen):
    return x[np.argsort(numpy_krum_scores(x, f, near))[:chosen]].mean(0)


# Each with 11 or 12 present clients; floor(0.2 n) = 2 are assumed attackers.
CASES = {
    "median": (Median(), lambda x, f, n: np.median(x, 0)),
    "trimmed": (TrimmedMean(share=0.2), lambda x, f, n: numpy_trimmed(x, f)),
    "geometric": (
        GeometricMedian(steps=5),
        lambda x, f, n: numpy_weiszfeld(x, 5),
    ),
    "krum": (
        Krum(share=0.2),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 2).argmin()],
    ),
    "krum one more": (
        Krum(share=0.2, variant="one_more"),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 1).argmin()],
    ),
    "krum unsquared": (
        Krum(share=0.2, variant="unsquared"),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 2, 1).argmin()],
    ),
    "multi-krum": (
        MultiKrum(share=0.2),
        lambda x, f, n: numpy_multi_krum(x, f, n - f - 2, n - f),
    ),
    "multi-krum of 3": (
        MultiKrum(share=0.2, chosen=3),
        lambda x, f, n: numpy_multi_krum(x, f, n - f - 2, 3),
    ),
    "bulyan": (Bulyan(share=0.2), lambda x, f, n: numpy_bulyan(x, f)),
    "clipping": (
        CenteredClipping(radius=2.0, steps=3),
        lambda x, f, n: numpy_clipping(x, 2.0, 3),
    ),
    "clipping median": (
        CenteredClipping(),
        lambda x, f, n: numpy_clipping(x, None, 1),
    ),
    "norm bound": (
        NormBound(bound=2.0),
        lambda x, f, n: (
            x * np.minimum(1, 2 / np.linalg.norm(x, axis=1))[:, None]
        ).mean(0),
    ),
    "mixed trimmed": (
        NNM(then=TrimmedMean(share=0.2), share=0.2),
        lambda x, f, n: numpy_trimmed(numpy_nnm(x, f), f),
    ),
    "mixed median": (
        NNM(share=0.2),
        lambda x, f, n: np.median(numpy_nnm(x, f), 0),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("n", [11, 12])
def test_against_numpy_with_absent_clients_between(name, n, fold):
    aggregator, oracle = CASES[name]
    for seed in range(3):
        x = cohort(seed, 15)
        weights = np.zeros(15)
        weights[np.random.default_rng(seed).permutation(15)[:n]] = 3.0
        got, _, _ = fold(aggregator, x, weights)
        want = oracle(x[weights > 0].astype(np.float64), 2, n)
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("f", [1, 2, 4])
def test_against_byzfl(f, fold):
    byzfl = pytest.importorskip("byzfl", exc_type=ImportError)
    n = 15
    share = f / n
    pairs = [
        (byzfl.Median(), Median()),
        (byzfl.TrMean(f), TrimmedMean(share=share)),
        (byzfl.GeometricMedian(1e-6, 300), GeometricMedian(steps=300)),
        (byzfl.Krum(f), Krum(share=share, variant="one_more")),
        (byzfl.MultiKrum(f), MultiKrum(share=share, variant="one_more")),
        (byzfl.CenteredClipping(L=3, tau=2.5), CenteredClipping(radius=2.5, steps=3)),
    ]
    for seed in range(4):
        x = cohort(seed, n, far=f)
        for reference, aggregator in pairs:
            want = reference(x.astype(np.float64))
            reference.m = None
            got, _, _ = fold(aggregator, x)
            np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
        near = byzfl.NNM(f)(x.astype(np.float64))
        for reference, rule in [
            (byzfl.TrMean(f), TrimmedMean(share=share)),
            (byzfl.Median(), Median()),
        ]:
            got, _, _ = fold(NNM(then=rule, share=share), x)
            np.testing.assert_allclose(got, reference(near), rtol=2e-4, atol=2e-5)
        clipped = byzfl.Clipping(2.0)(x.astype(np.float64)).mean(0)
        got, _, _ = fold(NormBound(bound=2.0), x)
        np.testing.assert_allclose(got, clipped, rtol=2e-4, atol=2e-5)


def test_krum_by_hand(fold):
    """Six clients on a line, f = 1: a score is the sum of three squared distances."""
    x = np.zeros((6, P), np.float32)
    x[:, 0] = [0, 1, 2, 4, 8, 30]
    # 0: 1 + 4 + 16; 1: 1 + 1 + 9; 2: 1 + 4 + 4; 4: 4 + 9 + 16; 8: 16 + 36 + 49; far.
    got, _, info = fold(Krum(share=0.17), x)
    assert got[0] == 2
    assert float(info["krum_score"]) == 9
    # Multi-Krum takes all but one: those with scores up to 101.
    got, _, info = fold(MultiKrum(share=0.17), x)
    assert got[0] == 3
    assert float(info["krum_score"]) == 101


def test_geometric_median_by_examples_is_that_of_repeated_clients(fold):
    x = cohort(3, 6)
    weights = np.array([1, 3, 2, 1, 1, 2.0])
    got, _, _ = fold(GeometricMedian(examples=True, steps=99), x, weights)
    repeated = np.repeat(x, weights.astype(int), 0)
    want, _, _ = fold(GeometricMedian(steps=99), repeated)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def exact_median(x):
    """A delta, or where long plain steps from the mean end, if that is better."""
    z = x.mean(0)
    for _ in range(3000):
        beta = 1 / np.maximum(np.linalg.norm(x - z, axis=1), 1e-12)
        z = beta @ x / beta.sum()
    return min([z, *x], key=lambda v: np.linalg.norm(x - v, axis=1).sum())


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("number", [0.0, 1e-30])
def test_a_zero_delta_does_not_hold_the_geometric_median(number, sparse, fold):
    """At the defaults; steps from zero reached .06 % of it for 8 clients."""
    for n in (8, 16, 32):
        rng = np.random.default_rng(n)
        # The coordinate median of sparse deltas is zero, where the zero delta lies.
        touched = rng.random((n, P)) < (0.4 if sparse else 1)
        x = rng.normal(1, 1, (n, P)) * touched
        x[n // 2] = number
        want = exact_median(x)
        assert np.linalg.norm(want) > 0.3
        for scale in (1, 0.1, 0.01):
            got, _, _ = fold(GeometricMedian(), (scale * x).astype(np.float32))
            error = np.linalg.norm(got / scale - want) / np.linalg.norm(want)
            assert error < 0.03


def test_a_zero_row_does_not_hold_the_geometric_median_of_a_row(fold):
    rule = GeometricMedian(voting="voters")
    for n in (5, 9, 20):
        x = np.random.default_rng(n).normal(0.04, 0.03, (n, P)).astype(np.float32)
        x[0] = 0
        got, _, _ = fold(rule, x)
        for row in (slice(0, 2), slice(2, 4), slice(8, 10)):
            # Held by the zero row, it would be 1e-4 of a median of .04 to .09.
            np.testing.assert_allclose(got[row], exact_median(x[:, row]), atol=7e-3)


def test_clipping_starts_from_the_last_aggregate(fold):
    rule = CenteredClipping(radius=1.5)
    x, y = cohort(0, 9), cohort(1, 9)
    first, state, info = fold(rule, x)
    norms = np.linalg.norm(x, axis=1)
    assert float(info["clipped_share"]) == np.float32((norms > 1.5).mean())
    second, _, _ = fold(rule, y, state=state)
    np.testing.assert_allclose(second, numpy_clipping(y, 1.5, 1, first), rtol=1e-4)


def test_the_bound_follows_the_median_of_the_norms(fold):
    rule = NormBound(momentum=0.25)
    x, y, z = cohort(0, 9), cohort(1, 8), cohort(2, 9)
    got, state, info = fold(rule, x)
    bound = np.median(np.linalg.norm(x, axis=1))
    assert np.linalg.norm(x.mean(0)) < bound
    np.testing.assert_allclose(got, x.mean(0), rtol=1e-5)  # no bound is known yet
    assert float(info["clipped_share"]) == 0
    much = x.copy()
    much[2] *= 1e6  # the mean is then as long as the median
    long, _, _ = fold(rule, much)
    median = np.median(np.linalg.norm(much, axis=1))
    mean = much.astype(np.float64).mean(0)
    np.testing.assert_allclose(
        long, mean * median / np.linalg.norm(mean), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(state, bound, rtol=1e-6)
    got, state, _ = fold(rule, y, state=state)
    norms = np.linalg.norm(y, axis=1)
    np.testing.assert_allclose(
        got, (y * np.minimum(1, bound / norms)[:, None]).mean(0), rtol=1e-4
    )
    bound = 0.25 * bound + 0.75 * np.median(norms)
    np.testing.assert_allclose(state, bound, rtol=1e-6)
    _, _, info = fold(rule, z, state=state)
    share = (np.linalg.norm(z, axis=1) > bound).mean()
    np.testing.assert_allclose(info["clipped_share"], share, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrimmedMean(share=0.5), r"share=0\.5, expected .* in \[0, 0\.5\)"),
        (lambda: TrimmedMean(share=-0.1), r"share=-0\.1"),
        (lambda: TrimmedMean(attackers=0.5), r"attackers=0\.5"),
        (lambda: Median(share=np.nan), "share=nan"),
        (lambda: Bulyan(share=0.25), r"share=0\.25, expected .* in \[0, 0\.25\)"),
        (lambda: GeometricMedian(steps=0), r"steps=0, expected .* in \[1, inf\)"),
        (lambda: GeometricMedian(smoothing=0.0), r"smoothing=0\.0"),
        (
            lambda: Krum(variant="nearest"),  # pyright: ignore[reportArgumentType]
            "expected blanchard, one_more or unsquared",
        ),
        (lambda: MultiKrum(chosen=0), "chosen=0"),
        (lambda: CenteredClipping(radius=-1), "radius=-1"),
        (lambda: CenteredClipping(steps=0), "steps=0"),
        (lambda: NormBound(bound=0), r"bound=0, expected .* in \(0, inf\)"),
        (lambda: NormBound(first=0), "first=0"),
        (lambda: NormBound(momentum=1.0), r"momentum=1\.0"),
        (lambda: NNM(share=0.5), r"share=0\.5"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_small_cohorts_and_wrong_rules_are_refused_before_any_compute(fold):
    with pytest.raises(ValueError, match="needs at least 2 f \\+ 3 = 5"):
        fold(Krum(share=0.25), cohort(0, 4))
    with pytest.raises(ValueError, match="needs at least 4 f \\+ 3 = 7"):
        fold(Bulyan(share=0.2), cohort(0, 6))
    with pytest.raises(ValueError, match="NNM needs a rule that keeps the"):
        fold(NNM(then=NormBound()), cohort(0, 6))
