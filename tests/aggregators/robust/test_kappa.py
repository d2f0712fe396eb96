"""The (f, kappa) bounds of Allouah et al., Fixing by Mixing, AISTATS 2023.

For every set of `n - f` honest deltas of mean `m`, whatever the other `f` are,
`|F - m|^2 <= kappa / (n - f) sum_honest |x - m|^2`.

The paper's `kappa` hold in the worst case, and are so wide that a rule that returns an
honest delta at random keeps most of them. No rule has one below `f / (n - 2 f)`: of `f`
clients at 1 and `n - f` at 0 the honest may be those at 0, so that `F = 0`, or all at 1
and the others. These deltas are not the worst case, and each rule has to stay below it.
"""

import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.krum import Krum
from fedjax_rec.aggregators.robust.medians import (
    GeometricMedian,
    Median,
    TrimmedMean,
)
from fedjax_rec.aggregators.robust.neighbours import NNM

P, N = 14, 13


def median_kappa(f):
    return 4 * (1 + f / (N - 2 * f)) ** 2


def trimmed_kappa(f):
    return 6 * f / (N - 2 * f) * (1 + f / (N - 2 * f))


def krum_kappa(f):
    return 6 * (1 + f / (N - 2 * f))


def mixed_kappa(f, kappa):
    return 8 * f / (N - f) * (kappa + 1)


# Table 1 and lemma 1 of the paper; its Krum counts n - f nearest with the client.
BOUNDS = {
    "median": (lambda share: Median(), median_kappa),
    "trimmed": (lambda share: TrimmedMean(share=share), trimmed_kappa),
    "geometric": (lambda share: GeometricMedian(), median_kappa),
    "krum": (lambda share: Krum(share=share, variant="one_more"), krum_kappa),
    "mixed median": (
        lambda share: NNM(share=share),
        lambda f: mixed_kappa(f, median_kappa(f)),
    ),
    "mixed trimmed": (
        lambda share: NNM(then=TrimmedMean(share=share), share=share),
        lambda f: mixed_kappa(f, trimmed_kappa(f)),
    ),
    "mixed geometric": (
        lambda share: NNM(then=GeometricMedian(), share=share),
        lambda f: mixed_kappa(f, median_kappa(f)),
    ),
}


def attacks(honest, f, rng):
    """What colluding attackers send, from harmless to crude: each `[f, P]`."""
    mean, spread = honest.mean(0), honest.std(0)
    way = np.sign(rng.normal(size=P))
    yield "far", np.tile(mean + 1e4 * way, (f, 1))
    yield "opposite", np.tile(-3 * mean, (f, 1))
    for z in (0.5, 1.0, 1.5, 3.0):  # a little is enough (Baruch et al. 2019)
        yield f"little {z}", np.tile(mean + z * spread * way, (f, 1))
    yield "mimic", np.tile(honest[np.abs(honest - mean).sum(1).argmax()], (f, 1))
    yield "edge", np.tile(honest.max(0), (f, 1))
    yield "apart", mean + 50 * rng.normal(size=(f, P))
    yield "silent", np.zeros((f, P))


def cohorts(f):
    """Honest deltas, and all `N` deltas in some order."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        scales = rng.lognormal(0, 1, (N - f, 1))
        honest = rng.normal(size=P) + scales * rng.normal(size=(N - f, P))
        for _, false in attacks(honest, f, rng):
            x = np.concatenate([honest, false]).astype(np.float32)
            yield honest, x[rng.permutation(N)]


def error(got, honest):
    """`|F - m|^2` in units of the honest deltas' variance."""
    mean = honest.mean(0)
    return np.square(got - mean).sum() / np.square(honest - mean).sum(1).mean()


# Krum's one delta may be that of a far honest client, whom five attackers mimic.
@pytest.mark.parametrize(
    ("name", "f"), [(n, f) for n in BOUNDS for f in (3, 5) if (n, f) != ("krum", 5)]
)
def test_a_rule_stays_within_the_least_bound_there_can_be(name, f, fold):
    make, kappa = BOUNDS[name]
    rule, least = make(f / N), f / (N - 2 * f)
    assert least < kappa(f)
    worst = 0.0
    for honest, x in cohorts(f):
        worst = max(worst, error(fold(rule, x)[0], honest))
    assert 0.01 * least < worst <= least


BROKEN = {
    "the first": lambda x, honest: x[0],
    "the mean": lambda x, honest: x.mean(0),
    "the largest": lambda x, honest: x.max(0),
    "none": lambda x, honest: 0 * x[0],
    "the farthest honest one": lambda x, honest: max(
        honest, key=lambda delta: error(delta, honest)
    ),
    "the nearest to the sum": lambda x, honest: min(
        x, key=lambda delta: np.square(delta - x.sum(0)).sum()
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_rules_that_are_not_robust_exceed_it(name):
    worst = max(error(BROKEN[name](x, honest), honest) for honest, x in cohorts(3))
    assert worst > 3 / (N - 2 * 3)


def test_the_mean_has_no_bound(fold):
    """The attackers of these tests do break a rule that is not robust."""
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(N - 3, P))
    variance = np.square(honest - honest.mean(0)).sum(1).mean()
    errors = {}
    for name, false in attacks(honest, 3, rng):
        x = np.concatenate([honest, false]).astype(np.float32)
        got, _, _ = fold(Mean(weights="uniform"), x)
        errors[name] = np.square(got - honest.mean(0)).sum() / variance
    assert errors["far"] > 1e4
