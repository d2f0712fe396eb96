"""Runs that diverge stop, and say so."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    Execution,
    Experiment,
    FedAvg,
    MatrixFactorization,
    SyntheticData,
    build,
)
from fedjax_rec.cli.options import Train
from fedjax_rec.cli.training import train
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.simulation.loop import Lanes, diverged_in, run_lanes


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


NAN = float("nan")


def events_of(losses, done=0, lost=()):
    """Events of lanes with `[lanes, rounds]` losses: rounds 1, 2, 3 and 4, 5.

    Returns:
        `(lane, round, whether all lanes are at rest)` of each round.
    """
    table, first = np.array(losses), done

    def advance(count):
        nonlocal first
        first += count
        return [{"loss": row[first - count : first]} for row in table]

    sim: Any = SimpleNamespace(
        rounds=table.shape[1],
        eval_every=table.shape[1],
        targets={},
        rated=(),
        protocol=Protocol(selection="last"),
    )

    def tests(part, lanes) -> Any:
        return [{"ndcg@10": 0.5}] * len(lanes)

    lanes, best = Lanes(advance, tests, tests), [-np.inf] * len(table)
    events = run_lanes(sim, lanes, best, done=done, lost=lost, profiler=lambda done: 2)
    return [(x, e["round"], rests) for x, e, rests in events if e["event"] == "round"]


@pytest.mark.parametrize(
    ("losses", "rests"),
    [
        ([[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]], [(1, 1), (1, 2), (1, 4)]),
        ([[1, 1, 1, 1, 1], [NAN, 1, 1, 1, 1]], [(1, 1), (0, 2), (0, 4)]),
        ([[1, 1, 1, 1, 1], [1, 1, NAN, 1, 1]], [(1, 1), (1, 2), (0, 4)]),
        ([[1, 1, 1, 1, 1], [1, 1, 1, NAN, 1]], [(1, 1), (1, 2), (1, 4)]),
        ([[NAN, 1, 1, 1, 1], [1, 1, 1, NAN, 1]], [(1, 1), (1, 2)]),
        ([[1, NAN, 1, 1, 1]], [(0, 1)]),
    ],
)
def test_lanes_rest_after_the_last_event_of_a_round(losses, rests):
    """The event with which a lane diverges comes before a checkpoint of its round."""
    events = events_of(losses)
    assert [(lane, done) for lane, done, at_rest in events if at_rest] == rests


def test_a_lane_that_diverged_before_has_no_event():
    losses = [[1, 1, 1, 1, 1], [1, NAN, 2, 2, 2]]
    events = events_of(losses, done=2, lost=[1])
    assert events == [(0, 3, True), (0, 4, False), (0, 5, False)]
    assert events_of(losses, done=2, lost=[0, 1]) == []


def experiment(server_lr):
    return Experiment(
        name="wild",
        data=SyntheticData(num_users=12, num_items=20, num_interactions=150),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=4),
            negatives=1,
            server_optimizer=SGD(lr=server_lr),
        ),
        execution=Execution(max_buckets=1),
        rounds=60,
        eval_every=3,
    )


def test_a_run_that_diverges_stops_and_says_so():
    simulation = build(experiment(1e4))
    result = simulation.run()
    last = result["diverged_in_round"]
    events = [e for e in result["history"] if e["event"] == "round"]
    assert 1 <= last < 60
    assert [e["round"] for e in events] == list(range(1, last + 1))
    assert np.isnan(events[-1]["loss"])
    assert all(np.isfinite(e["loss"]) for e in events[:-1])
    evaluated = [e["round"] for e in result["history"] if e["event"] == "evaluation"]
    assert evaluated == list(range(3, last, 3))
    assert (result["selected"] > 0) == bool(evaluated) == bool(result["metrics"])
    assert list(simulation.events()) == []  # it has no round after that


def test_the_record_and_the_terminal_of_a_run_that_diverges(tmp_path, capsys):
    folder = tmp_path / "run"
    train(experiment(1e38), Train(output=folder, quiet=True))
    result = json.loads((folder / "result.json").read_text())
    assert result["diverged_in_round"] >= 1
    assert "DIVERGED" in capsys.readouterr().out
    assert "DIVERGED" in (folder / "report.md").read_text()
