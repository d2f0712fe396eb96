"""Runs that diverge stop, and say so."""

import json

import numpy as np

from fedjax_rec import SGD, Execution, Experiment, FedAvg, SyntheticData, build
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.training import train
from fedjax_rec.simulation.loop import diverged_in


def rounds(*losses):
    return [
        {"event": "round", "round": number, "loss": loss}
        for number, loss in enumerate(losses, 1)
    ]


def test_the_first_loss_that_is_not_finite():
    assert diverged_in(rounds(1.0, 2.0)) is None
    assert diverged_in(rounds(1.0, float("nan"), 2.0)) == 2
    assert diverged_in(rounds(None, float("inf"))) == 1  # `null` in a file
    assert diverged_in([{"event": "round", "round": 1}]) is None
    evaluation = {"event": "evaluation", "round": 1, "loss": None}
    assert diverged_in([evaluation]) is None


def experiment(server_lr):
    return Experiment(
        name="wild",
        data=SyntheticData(num_users=12, num_items=20, num_interactions=150),
        algorithm=FedAvg(dim=4, negatives=1, server_optimizer=SGD(lr=server_lr)),
        execution=Execution(max_buckets=1),
        rounds=60,
        eval_every=3,
    )


def test_a_run_that_diverges_stops_and_says_so():
    result = build(experiment(1e4)).run()
    last = result["diverged_in_round"]
    events = [e for e in result["history"] if e["event"] == "round"]
    assert 1 <= last < 60
    assert [e["round"] for e in events] == list(range(1, last + 1))
    assert np.isnan(events[-1]["loss"])
    assert all(np.isfinite(e["loss"]) for e in events[:-1])
    evaluated = [e["round"] for e in result["history"] if e["event"] == "evaluation"]
    assert evaluated == list(range(3, last, 3))
    assert (result["selected"] > 0) == bool(evaluated) == bool(result["metrics"])


def test_the_record_and_the_terminal_of_a_run_that_diverges(tmp_path, capsys):
    folder = tmp_path / "run"
    train(experiment(1e38), Train(output=folder, quiet=True))
    result = json.loads((folder / "result.json").read_text())
    assert result["diverged_in_round"] >= 1
    assert "DIVERGED" in capsys.readouterr().out
    assert "DIVERGED" in (folder / "report.md").read_text()
