"""Rules against loops in NumPy, and against byzfl 0.0.11 where it is installed."""

import numpy as np
import pytest

from fedjax_rec.aggregators.robust.bulyan import bulyan
from fedjax_rec.aggregators.robust.clipping import centered_clipping
from fedjax_rec.aggregators.robust.coordinates import (
    coordinate_median,
    trimmed_mean,
)
from fedjax_rec.aggregators.robust.geometric import geometric_median
from fedjax_rec.aggregators.robust.krum import krum, multi_krum
from fedjax_rec.aggregators.robust.mixing import mixed
from fedjax_rec.aggregators.robust.norm_bound import norm_bound

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
    kept = x[chosen]
    near = np.argsort(np.abs(kept - np.median(kept, 0)), 0)[: len(kept) - 2 * f]
    return np.take_along_axis(kept, near, 0).mean(0)


def numpy_weiszfeld(x, weights, steps, nu):
    z = np.zeros(P)
    for _ in range(steps):
        beta = weights / np.maximum(np.linalg.norm(x - z, axis=1), nu)
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


# Each with 11 or 12 clients present, of whom floor(0.2 n) = 2 are assumed attackers.
CASES = {
    "median": (coordinate_median(), lambda x, f, n: np.median(x, 0)),
    "trimmed": (trimmed_mean(share=0.2), lambda x, f, n: numpy_trimmed(x, f)),
    "geometric": (
        geometric_median(steps=5),
        lambda x, f, n: numpy_weiszfeld(x, np.ones(n), 5, 1e-6),
    ),
    "krum": (
        krum(share=0.2),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 2).argmin()],
    ),
    "krum one more": (
        krum(share=0.2, variant="one_more"),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 1).argmin()],
    ),
    "krum unsquared": (
        krum(share=0.2, variant="unsquared"),
        lambda x, f, n: x[numpy_krum_scores(x, f, n - f - 2, 1).argmin()],
    ),
    "multi-krum": (
        multi_krum(share=0.2),
        lambda x, f, n: numpy_multi_krum(x, f, n - f - 2, n - f),
    ),
    "multi-krum of 3": (
        multi_krum(share=0.2, chosen=3),
        lambda x, f, n: numpy_multi_krum(x, f, n - f - 2, 3),
    ),
    "bulyan": (bulyan(share=0.2), lambda x, f, n: numpy_bulyan(x, f)),
    "clipping": (
        centered_clipping(radius=2.0, steps=3),
        lambda x, f, n: numpy_clipping(x, 2.0, 3),
    ),
    "clipping median": (
        centered_clipping(),
        lambda x, f, n: numpy_clipping(x, None, 1),
    ),
    "norm bound": (
        norm_bound(bound=2.0),
        lambda x, f, n: (
            x * np.minimum(1, 2 / np.linalg.norm(x, axis=1))[:, None]
        ).mean(0),
    ),
    "mixed trimmed": (
        mixed(trimmed_mean(share=0.2), share=0.2),
        lambda x, f, n: numpy_trimmed(numpy_nnm(x, f), f),
    ),
    "mixed median": (
        mixed(coordinate_median(), share=0.2),
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
        (byzfl.Median(), coordinate_median()),
        (byzfl.TrMean(f), trimmed_mean(share=share)),
        (byzfl.GeometricMedian(0.1, 6), geometric_median(steps=6, smoothing=0.1)),
        (byzfl.Krum(f), krum(share=share, variant="one_more")),
        (byzfl.MultiKrum(f), multi_krum(share=share, variant="one_more")),
        (byzfl.CenteredClipping(L=3, tau=2.5), centered_clipping(radius=2.5, steps=3)),
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
            (byzfl.TrMean(f), trimmed_mean(share=share)),
            (byzfl.Median(), coordinate_median()),
        ]:
            got, _, _ = fold(mixed(rule, share=share), x)
            np.testing.assert_allclose(got, reference(near), rtol=2e-4, atol=2e-5)
        clipped = byzfl.Clipping(2.0)(x.astype(np.float64)).mean(0)
        got, _, _ = fold(norm_bound(bound=2.0), x)
        np.testing.assert_allclose(got, clipped, rtol=2e-4, atol=2e-5)


def test_krum_by_hand(fold):
    """Six clients on a line, f = 1: a score is the sum of three squared distances."""
    x = np.zeros((6, P), np.float32)
    x[:, 0] = [0, 1, 2, 4, 8, 30]
    # 0: 1 + 4 + 16; 1: 1 + 1 + 9; 2: 1 + 4 + 4; 4: 4 + 9 + 16; 8: 16 + 36 + 49; far.
    got, _, info = fold(krum(share=0.17), x)
    assert got[0] == 2
    assert float(info["krum_score"]) == 9
    # Multi-Krum takes all but one: those with scores up to 101.
    got, _, info = fold(multi_krum(share=0.17), x)
    assert got[0] == 3
    assert float(info["krum_score"]) == 101


def test_geometric_median_by_examples_is_that_of_repeated_clients(fold):
    x = cohort(3, 6)
    weights = np.array([1, 3, 2, 1, 1, 2.0])
    got, _, _ = fold(geometric_median(examples=True), x, weights)
    want, _, _ = fold(geometric_median(), np.repeat(x, weights.astype(int), 0))
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_clipping_starts_from_the_last_aggregate(fold):
    rule = centered_clipping(radius=1.5)
    x, y = cohort(0, 9), cohort(1, 9)
    first, state, info = fold(rule, x)
    norms = np.linalg.norm(x, axis=1)
    assert float(info["clipped_share"]) == np.float32((norms > 1.5).mean())
    second, _, _ = fold(rule, y, state=state)
    np.testing.assert_allclose(second, numpy_clipping(y, 1.5, 1, first), rtol=1e-4)


def test_the_bound_follows_the_median_of_the_norms(fold):
    rule = norm_bound(momentum=0.25)
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
        (lambda: trimmed_mean(share=0.5), "below 0.5"),
        (lambda: trimmed_mean(share=-0.1), "at least 0"),
        (lambda: bulyan(share=0.25), "below 0.25"),
        (lambda: geometric_median(steps=0), "steps must be"),
        (lambda: krum(variant="nearest"), "blanchard, one_more or unsquared"),  # pyright: ignore[reportArgumentType]
        (lambda: multi_krum(chosen=0), "chosen must be"),
        (lambda: centered_clipping(radius=-1), "radius not negative"),
        (lambda: norm_bound(bound=0), "must be positive"),
    ],
)
def test_bad_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_small_cohorts_and_wrong_rules_are_refused_before_any_compute(fold):
    with pytest.raises(ValueError, match="needs at least 2 f \\+ 3 = 5"):
        fold(krum(share=0.25), cohort(0, 4))
    with pytest.raises(ValueError, match="needs at least 4 f \\+ 3 = 7"):
        fold(bulyan(share=0.2), cohort(0, 6))
    with pytest.raises(ValueError, match="folds them as they come"):
        fold(mixed(norm_bound()), cohort(0, 6))
