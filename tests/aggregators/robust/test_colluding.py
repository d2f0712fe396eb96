"""Colluders' ballots by hand in NumPy, and their effect on rules."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from fedjax_rec import (
    Execution,
    Experiment,
    FedAvg,
    MatrixFactorization,
    MeshConfig,
    SyntheticData,
    build,
)
from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.clipping import NormBound
from fedjax_rec.aggregators.robust.colluding import ALIE, IPM, most_deviations
from fedjax_rec.aggregators.robust.krum import Krum
from fedjax_rec.aggregators.robust.medians import MajorityVote, Median, TrimmedMean
from fedjax_rec.contrib.guided import Guided, guided
from fedjax_rec.core.attackers import attackers
from fedjax_rec.core.contracts import Recipe, Senders
from tests.aggregators.cohorts import built, context

I, D, C, P = 5, 2, 12, 14  # noqa: E741
MEMBERS = np.asarray(attackers(C, 1 / 3, seed=4))
AWAY = [np.flatnonzero(MEMBERS)[0], np.flatnonzero(~MEMBERS)[0]]
PRESENT_MEMBER = np.flatnonzero(MEMBERS)[1]


def attacked(attack, rule, num_clients=C):
    """The rule under the attack."""
    recipe = Recipe(None, None, built(rule), lambda h: None, {})  # pyright: ignore
    facts = context(num_clients=num_clients, recipe=recipe)
    return attack.build(facts).aggregator


def cohort(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (C, P)).astype(np.float32)
    touched = rng.random((C, I)) < 0.6
    touched[:, 0] = False
    touched[PRESENT_MEMBER, 0] = True  # no honest client touched row 0
    weights = np.ones(C)
    weights[AWAY] = 0
    return x, touched, weights


def numpy_false(x, votes, attack):
    """The members' numbers in each column with known votes; `[P]`."""
    present = np.ones(C, bool)
    present[AWAY] = False
    watched = (MEMBERS if attack.knows == "own" else ~MEMBERS) & present
    n, m = present.sum(), (MEMBERS & present).sum()
    z = attack.scale * stats.norm.ppf((n - m - (n // 2 + 1 - m)) / (n - m))
    false = np.full(P, np.nan)
    for p in range(P):
        column = x[watched & votes[:, p], p].astype(np.float64)
        if len(column) and isinstance(attack, ALIE):
            false[p] = column.mean() - z * column.std()
        elif len(column):
            false[p] = -attack.scale * column.mean()
    return false


ATTACKS = pytest.mark.parametrize(
    "attack",
    [
        ALIE(share=1 / 3, seed=4, scale=2.0),
        IPM(share=1 / 3, seed=4, scale=0.5),
        ALIE(share=1 / 3, seed=4, knows="own"),
    ],
    ids=["alie", "ipm", "alie own"],
)


@pytest.mark.parametrize("voting", ["dense", "voters"])
@ATTACKS
def test_against_numpy(attack, voting, fold):
    x, touched, weights = cohort()
    inner = TrimmedMean(share=0, voting=voting)  # a mean: every ballot counts
    got, _, info = fold(attacked(attack, inner), x, weights, touched=touched)
    wide = np.concatenate([np.repeat(touched, D, 1), np.ones((C, 4), bool)], 1)
    sent = np.where(wide, x, 0)
    votes = np.ones_like(wide) if voting == "dense" else wide
    false = numpy_false(sent, votes, attack)
    theirs = MEMBERS[:, None] & votes & ~np.isnan(false)
    sent = np.where(theirs, np.nan_to_num(false), sent)
    present = (weights > 0)[:, None] & votes
    want = np.where(present, sent, 0).sum(0) / np.maximum(present.sum(0), 1)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert float(info["colluders"]) == 3
    plain, _, _ = fold(inner, x, weights, touched=touched)
    assert np.abs(got - plain).max() > 0.05


def test_the_papers_deviations():
    """Baruch et al.: with `n` = 50 and `m` = 24, two more make a majority."""
    assert float(most_deviations(jnp.int32(50), jnp.int32(24))) == pytest.approx(
        stats.norm.ppf(24 / 26), abs=1e-4
    )
    # (n, m): the quantile of honest clients that are no supporters; 0 below one half.
    cases = {(11, 2): 5 / 9, (10, 4): 4 / 6, (7, 3): 3 / 4}
    cases |= dict.fromkeys([(11, 0), (5, 3), (4, 4), (0, 0)], 0.5)
    for (n, m), quantile in cases.items():
        z = float(most_deviations(jnp.int32(n), jnp.int32(m)))
        assert z == pytest.approx(stats.norm.ppf(quantile), abs=1e-4)


def test_inner_products_turn_a_mean_and_not_a_median(fold):
    """Three of eleven that send five times the opposite outweigh the other eight."""
    x = np.random.default_rng(1).normal(1, 0.3, (11, P)).astype(np.float32)
    attack = IPM(share=3 / 11, scale=5.0)
    mean, _, _ = fold(attacked(attack, TrimmedMean(share=0), 11), x)
    median, _, _ = fold(attacked(attack, Median(), 11), x)
    assert (mean < 0).all()
    assert (median > 0.3).all()


def test_krum_takes_a_delta_that_is_a_little_off(fold):
    """Colluders are each other's nearest neighbours: the point of the paper."""
    x = np.random.default_rng(2).normal(0, 1, (25, P)).astype(np.float32)
    rule = attacked(ALIE(share=11 / 25), Krum(share=0.44), 25)
    got, _, _ = fold(rule, x)
    honest = x[~np.asarray(attackers(25, 11 / 25))].astype(np.float64)
    z = stats.norm.ppf((14 - 2) / 14)
    want = honest.mean(0) - z * honest.std(0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def falsified(attack, x, touched):
    """Deltas and votes with those of the members replaced."""
    wide = np.concatenate([np.repeat(touched, D, 1), np.ones((C, 4), bool)], 1)
    sent = np.where(wide, x, 0)
    false = numpy_false(sent, wide, attack)
    theirs = MEMBERS[:, None] & wide & ~np.isnan(false)
    return np.where(theirs, np.nan_to_num(false), sent), wide


@pytest.mark.parametrize("rule", ["mean", "per row", "examples", "vote", "norm bound"])
@ATTACKS
def test_rules_without_a_buffer_get_one(rule, attack, fold):
    x, touched, weights = cohort()
    weights = weights * np.arange(1, C + 1)
    inner = {
        "mean": Mean(weights="uniform"),
        "per row": Mean(weights="uniform", per_row=True),
        "examples": Mean(),
        "vote": MajorityVote(step=0.5),
        "norm bound": NormBound(bound=2.0),
    }[rule]
    got, _, info = fold(attacked(attack, inner), x, weights, touched=touched)
    sent, wide = falsified(attack, x, touched)
    present = (weights > 0)[:, None]
    if rule == "per row":
        votes = present & wide
        want = np.where(votes, sent, 0).sum(0) / np.maximum(votes.sum(0), 1)
    elif rule == "examples":
        want = weights @ sent / weights.sum()
    elif rule == "vote":
        want = 0.5 * np.sign(np.sign(np.where(present, sent, 0)).sum(0))
    else:
        size = np.linalg.norm(sent, axis=1, keepdims=True)
        if rule == "norm bound":
            sent = sent * np.minimum(1, 2 / size)
        want = np.where(present, sent, 0).sum(0) / present.sum()
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    assert float(info["colluders"]) == 3


def test_messages_that_are_no_deltas_are_refused(fold):
    rule = attacked(ALIE(), Mean())
    shared = {"w": jnp.zeros(3)}
    acc = rule.init(shared, 2)
    senders = Senders(
        slots=jnp.arange(2),
        ids=jnp.arange(2),
        loss=jnp.zeros(2),
        extras={"norm": jnp.ones(2)},
    )
    with pytest.raises(ValueError, match="reads norm of each client besides its delta"):
        rule.update(acc, {"w": jnp.ones((2, 3))}, jnp.ones(2), senders)
    senders = dataclasses.replace(senders, extras={})
    with pytest.raises(ValueError, match="such as sketches"):
        rule.update(acc, {"sketch": jnp.ones((2, 5))}, jnp.ones(2), senders)


def test_guided_weights_see_the_false_deltas(fold):
    """They only change the deltas: by the update's likeness, in NumPy's mean of 1."""
    x, touched, weights = cohort()
    touched = np.ones_like(touched)
    attack = IPM(share=1 / 3, seed=4, scale=2.0)
    settings = Guided(likeness="update", examples=0.0, outlier=0.0)
    recipe = Recipe(None, None, guided(settings, C), lambda h: None, {})  # pyright: ignore
    rule = attack.build(context(num_clients=C, recipe=recipe)).aggregator
    got, _, _ = fold(rule, x, weights, touched=touched)
    sent, _ = falsified(attack, x, touched)
    np.testing.assert_allclose(got, sent[weights > 0].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [ALIE, IPM])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0.0}, r"scale=0\.0, expected .* \(0, inf\)"),
        ({"scale": np.inf}, "scale=inf"),
        ({"share": 1.1}, r"share=1\.1, expected .* \[0, 1\]"),
        ({"knows": "all"}, "knows='all', expected honest or own"),
    ],
)
def test_impossible_settings_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


SMALL = Experiment(
    name="colluders",
    data=SyntheticData(num_users=20, num_items=30, num_interactions=200),
    algorithm=FedAvg(model=MatrixFactorization(dim=4), negatives=1),
    attack=IPM(share=0.2, scale=3.0),
    aggregation=Median(voting="voters"),
    rounds=1,
    eval_every=1,
)


def test_an_experiment_names_them():
    simulation = build(SMALL)
    (event,) = [e for e in simulation.run()["history"] if e["event"] == "round"]
    assert event["colluders"] == 4
    assert event["touched_rows"] > 0
    mean = build(dataclasses.replace(SMALL, aggregation=None))
    (event,) = [e for e in mean.run()["history"] if e["event"] == "round"]
    assert event["colluders"] == 4


@pytest.mark.parametrize(
    "rule",
    [Mean(), TrimmedMean(share=0.1, voting="voters"), Median(), Krum(share=0.1)],
    ids=str,
)
@pytest.mark.parametrize("scale", [1e30, 1e38])
def test_colluders_with_too_large_numbers_are_absent(rule, scale, fold):
    x, touched, weights = cohort()
    attack = IPM(share=1 / 3, seed=4, scale=scale)
    got, _, info = fold(attacked(attack, rule), x, weights, touched=touched)
    without = np.where(MEMBERS, 0, weights)
    want, _, _ = fold(rule, x, without, touched=touched)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert float(info["colluders"]) == 0
    assert float(info["rejected_clients"]) == 3


def test_a_run_survives_too_large_numbers_and_counts_their_senders():
    experiment = Experiment(
        name="large",
        data=SyntheticData(num_users=30, num_items=40, num_interactions=500),
        algorithm=FedAvg(model=MatrixFactorization(dim=4)),
        attack=IPM(share=0.2, scale=1e30),
        execution=Execution(max_buckets=1),
        mesh=MeshConfig(devices=1),
        rounds=2,
        eval_every=2,
    )
    simulation = build(experiment)
    log = simulation.advance(2)
    assert log["rejected_clients"].tolist() == [6, 6]
    assert log["clients"].tolist() == [24, 24]
    for leaf in jax.tree.leaves(simulation.state.shared):
        assert np.abs(leaf).max() < 100
    assert np.isfinite(log["loss"]).all()
