"""Explicit ratings: a run is selected by its validation error, where it has one."""

import dataclasses

import pytest

import fedjax_rec as fr
from fedjax_rec.experiment import build

RATED = fr.Experiment(
    name="rated",
    data=fr.SyntheticData(num_users=24, num_items=30, num_interactions=300),
    algorithm=fr.FedMF(feedback="explicit", dim=4, client_lr=0.05),
    execution=fr.Execution(max_buckets=1),
    mesh=fr.MeshConfig(devices=1),
    rounds=6,
    eval_every=1,
)


def test_the_round_of_the_lowest_validation_rmse_is_selected(monkeypatch):
    simulation, parts = fr.build(RATED), []
    assert simulation.protocol.selection == "rmse"
    script = iter([3.0, 2.0, 2.5, 2.0, 1.0, 1.5])

    def rmse(part):
        parts.append(part)
        return next(script) if part == "val" else 9.0

    monkeypatch.setattr(simulation, "rmse", rmse)
    result = simulation.run()
    assert result["selected"] == 5
    assert result["protocol"]["selection"] == "rmse"
    assert result["metrics"]["val"]["rmse"] == 1.0
    seen = [e["round"] for e in result["history"] if "rmse_test" in e]
    assert seen == [1, 2, 5]
    assert seen == [e["round"] for e in result["history"] if "test" in e]
    assert (parts.count("val"), parts.count("test")) == (6, 3)


def changed(**changes):
    return dataclasses.replace(RATED, **changes)


def test_a_preference_is_no_rating():
    """FCF draws no negatives, and yet predicts no ratings."""
    simulation = fr.build(changed(algorithm=fr.FCF(dim=4)))
    assert simulation.protocol.selection == "ndcg@10"
    assert simulation.rated == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": fr.Protocol(evaluated="tuned")}, "aggregated parameters only"),
        (
            {"protocol": fr.Protocol(evaluated="tuned"), "split": fr.ColdUsers()},
            "aggregated parameters only",
        ),
    ],
    ids=["tuned", "cold users"],
)
def test_a_run_without_errors_says_why(changes, reason):
    simulation = fr.build(changed(**changes))
    assert simulation.protocol.selection == "ndcg@10"
    assert simulation.rated == ()
    (sentence,) = [why for why in simulation.why if "RMSE" in why]
    assert reason in sentence


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"algorithm": fr.FCF()}, "predicts ratings"),
        ({"algorithm": fr.FedAvg()}, "predicts ratings"),
        ({"evaluated": "tuned"}, "aggregated parameters only"),
        ({"split": fr.ColdUsers()}, "users who take part in no round"),
    ],
    ids=["fcf", "implicit", "tuned", "cold users"],
)
def test_rmse_is_refused_before_data_are_read(changes, reason, monkeypatch):
    monkeypatch.setattr(build, "load_prepared", None)
    protocol = fr.Protocol(
        selection="rmse", evaluated=changes.pop("evaluated", "aggregated")
    )
    with pytest.raises(ValueError, match=reason):
        fr.build(changed(protocol=protocol, **changes))
