"""Whole runs under attack, through the engine."""

import functools

import numpy as np
import pytest

import fedjax_rec
from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.robust.clipping import NormBound
from fedjax_rec.aggregators.robust.medians import TrimmedMean
from fedjax_rec.attacks.false_deltas import Boost, SignFlip
from fedjax_rec.core.attackers import attackers

USERS, ITEMS = 60, 40
DATA = fedjax_rec.SyntheticData(num_users=USERS, num_items=ITEMS, num_interactions=900)
UNPOPULAR = int(np.bincount(DATA.load().item, minlength=ITEMS).argmin())
MEMBERS = np.asarray(attackers(USERS, 0.1, seed=1))
ATTACKS = {
    "none": None,
    "flip": SignFlip(share=0.1, seed=1, scale=30.0),
    "boost": Boost(share=0.1, seed=1, item=UNPOPULAR, scale=20.0),
}
RULES = {
    "mean": Mean(weights="uniform"),
    "trimmed": TrimmedMean(share=0.2, voting="diluted"),
    "bound": NormBound(),
}


@functools.cache
def run(attack, rule):
    """`(table [I, d], honest users with the item in their top 10, rounds)`."""
    config = fedjax_rec.Experiment(
        name="attacked",
        data=DATA,
        algorithm=fedjax_rec.PFedRec(dim=4, client_lr=0.1, item_lr_scale=20.0),
        aggregation=RULES[rule],
        attack=ATTACKS[attack],
        execution=fedjax_rec.Execution(max_buckets=1),
        rounds=20,
        eval_every=20,
    )
    simulation = fedjax_rec.build(config)
    history = simulation.run()["history"]
    arrays = simulation.snapshot().arrays
    table = np.asarray(arrays["server"].shared["item"].values)
    scores = np.asarray(arrays["personal"]["scorer"]["w"]) @ table.T
    honest = scores[~MEMBERS]
    before = (honest > honest[:, [UNPOPULAR]]).sum(1)
    rounds = [event for event in history if event["event"] == "round"]
    return table, (before < 10).mean(), rounds


def test_a_robust_rule_keeps_the_table_near_that_of_honest_clients():
    moved = {
        rule: np.linalg.norm(run("flip", rule)[0] - run("none", rule)[0])
        / np.linalg.norm(run("none", rule)[0])
        for rule in ("mean", "trimmed")
    }
    assert moved["mean"] > 1
    assert moved["trimmed"] < 0.5


def test_a_boosted_item_is_shown_to_many_under_a_mean_and_to_few_under_a_robust_rule():
    assert run("none", "mean")[1] < 0.05
    assert run("boost", "mean")[1] > 0.3
    assert run("boost", "trimmed")[1] < 0.05


def test_rounds_report_the_rows_of_the_rule():
    _, _, rounds = run("flip", "trimmed")
    assert rounds[-1]["rejected_clients"] == 0
    assert rounds[-1]["touched_rows"] == ITEMS
    assert 0 < rounds[-1]["broken_share"] < 1


def test_the_bound_of_a_round_is_the_median_norm_of_the_one_before():
    _, _, rounds = run("flip", "bound")
    bounds = [event["norm_bound"] for event in rounds]
    # The first round has none; JSON has no infinity, so the event may hold `None`.
    assert bounds[0] is None or not np.isfinite(bounds[0])
    assert rounds[0]["clipped_share"] == 0
    assert all(0 < bound < np.inf for bound in bounds[1:])
    # Six of sixty send thirty times as much; the median norm moves slowly.
    assert all(0.05 < event["clipped_share"] < 0.9 for event in rounds[1:])
    assert bounds[5] == pytest.approx(bounds[4], rel=0.5)
