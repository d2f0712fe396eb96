"""Colluders' ballots by hand in NumPy, and what rules make of them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec import (
    AggregationConfig,
    AttackConfig,
    Experiment,
    FedAvg,
    SyntheticData,
    build,
)
from fedjax_rec.aggregators import AGGREGATORS
from fedjax_rec.aggregators.robust.colluding import colluding, most_deviations
from fedjax_rec.aggregators.robust.coordinates import (
    coordinate_median,
    trimmed_mean,
)
from fedjax_rec.aggregators.robust.krum import krum

I, D, C, P = 5, 2, 12, 14  # noqa: E741
MEMBERS = np.isin(np.arange(C), [1, 4, 5, 9])
AWAY = [0, 9]  # one of them a member


def cohort(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (C, P)).astype(np.float32)
    touched = rng.random((C, I)) < 0.6
    touched[:, 0] = False
    touched[1, 0] = True  # of row 0 only a member knows anything
    weights = np.ones(C)
    weights[AWAY] = 0
    return x, touched, weights


def numpy_false(x, votes, kind, scale, knows):
    """What members send in each column, where somebody is known; `[P]`."""
    here = np.ones(C, bool)
    here[AWAY] = False
    known = (MEMBERS if knows == "own" else ~MEMBERS) & here
    n, m = here.sum(), (MEMBERS & here).sum()
    z = scale * stats.norm.ppf((n - m - (n // 2 + 1 - m)) / (n - m))
    false = np.full(P, np.nan)
    for p in range(P):
        some = x[known & votes[:, p], p].astype(np.float64)
        if len(some):
            false[p] = -scale * some.mean()
            if kind == "alie":
                false[p] = some.mean() - z * some.std()
    return false


@pytest.mark.parametrize("voting", ["dense", "voters"])
@pytest.mark.parametrize(
    ("kind", "scale", "knows"),
    [("alie", 2.0, "honest"), ("ipm", 0.5, "honest"), ("alie", 1.0, "own")],
)
def test_against_numpy(kind, scale, knows, voting, fold):
    x, touched, weights = cohort()
    inner = trimmed_mean(share=0, voting=voting)  # a mean: every ballot counts
    rule = colluding(inner, jnp.asarray(MEMBERS), kind=kind, scale=scale, knows=knows)
    got, _, info = fold(rule, x, weights, touched=touched)
    wide = np.concatenate([np.repeat(touched, D, 1), np.ones((C, 4), bool)], 1)
    sent = np.where(wide, x, 0)
    votes = np.ones_like(wide) if voting == "dense" else wide
    false = numpy_false(sent, votes, kind, scale, knows)
    theirs = MEMBERS[:, None] & votes & ~np.isnan(false)
    sent = np.where(theirs, np.nan_to_num(false), sent)
    here = (weights > 0)[:, None] & votes
    want = np.where(here, sent, 0).sum(0) / np.maximum(here.sum(0), 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert float(info["colluders"]) == 3
    plain, _, _ = fold(inner, x, weights, touched=touched)
    assert np.abs(got - plain).max() > 0.05


def test_the_papers_deviations():
    """Baruch et al.: with `n` = 50 and `m` = 24, two more make a majority."""
    assert float(most_deviations(jnp.int32(50), jnp.int32(24))) == pytest.approx(
        stats.norm.ppf(24 / 26), abs=1e-4
    )
    for n, m in [(11, 0), (11, 2), (10, 4), (5, 3), (4, 4), (0, 0)]:
        z = float(most_deviations(jnp.int32(n), jnp.int32(m)))
        assert np.isfinite(z)
        assert z >= 0


def test_inner_products_turn_a_mean_and_not_a_median(fold):
    """Three of eleven that send five times the opposite outweigh the other eight."""
    x = np.random.default_rng(1).normal(1, 0.3, (11, P)).astype(np.float32)
    members = jnp.arange(11) < 3
    turned = {}
    for name, inner in [
        ("mean", trimmed_mean(share=0)),
        ("median", coordinate_median()),
    ]:
        rule = colluding(inner, members, kind="ipm", scale=5.0)
        turned[name], _, _ = fold(rule, x)
    assert (turned["mean"] < 0).all()
    assert (turned["median"] > 0.3).all()


def test_krum_takes_the_delta_that_is_a_little_off(fold):
    """Colluders are each other's nearest neighbours: the point of the paper."""
    x = np.random.default_rng(2).normal(0, 1, (25, P)).astype(np.float32)
    members = np.arange(25) < 11
    rule = colluding(krum(share=0.44), jnp.asarray(members), kind="alie")
    got, _, _ = fold(rule, x)
    honest = x[~members].astype(np.float64)
    z = stats.norm.ppf((14 - 2) / 14)
    want = honest.mean(0) - z * honest.std(0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_rules_without_a_buffer_and_wrong_kinds_are_refused(fold):
    members = jnp.asarray(MEMBERS)
    with pytest.raises(ValueError, match="keeps the cohort's deltas"):
        fold(colluding(AGGREGATORS["uniform"](), members, kind="alie"), cohort()[0])
    with pytest.raises(ValueError, match="kind must be alie or ipm"):
        colluding(krum(), members, kind="little")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="scale must be positive"):
        colluding(krum(), members, kind="ipm", scale=0.0)


SMALL = Experiment(
    name="colluders",
    data=SyntheticData(num_users=20, num_items=30, num_interactions=200),
    algorithm=FedAvg(dim=4, negatives=1),
    attack=AttackConfig(kind="ipm", share=0.2, scale=3.0),
    aggregation=AggregationConfig(rule="median_of_voters"),
    rounds=1,
    eval_every=1,
)


def test_an_experiment_names_them():
    simulation = build(SMALL)
    (event,) = [e for e in simulation.run()["history"] if e["event"] == "round"]
    assert event["colluders"] == 4
    assert event["touched_rows"] > 0
    with pytest.raises(ValueError, match="keeps the cohort's deltas"):
        build(dataclasses.replace(SMALL, aggregation=AggregationConfig()))
