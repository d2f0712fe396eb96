"""The reason why a folder holds no parameters."""

import json

import pytest

from fedjax_rec.runs.missing import why_no_model

COMMAND = [
    "fedjax-rec", "sweep", "mine.py", "--grid", "algorithm.client-lr=0.1,1",
    "--grid", "seed=0:2", "--rounds", "5", "--output", "sw", "--plugin", "own.py",
    "--algorithm.client-lr=3",
]  # fmt: skip


@pytest.fixture
def point(tmp_path):
    """Writes a point of a sweep with given values."""

    def write(command, values):
        path = tmp_path / "point"
        path.mkdir()
        config = {"rounds": 5, "algorithm": {"client_lr": 0.1}, "seed": 1}
        (path / "config.json").write_text(json.dumps(config))
        versions = {"command": command, "working_folder": "/began"}
        (path / "versions.json").write_text(json.dumps(versions))
        (path / "result.json").write_text(json.dumps({"selected": 2}))
        points = {"point": {"values": values, "status": "finished"}}
        (tmp_path / "sweep.json").write_text(json.dumps({"points": points}))
        return path

    return write


def test_a_point_of_a_sweep_is_trained_by_the_command_given(point):
    text = why_no_model(point(COMMAND, {"algorithm.client_lr": 0.1, "seed": 1}))
    assert "is a point of a sweep, and sweeps keep no parameters" in text
    expected = (
        "in /began:\n  fedjax-rec train mine.py --rounds 5 --plugin own.py --seed 1 "
        "--algorithm.client_lr 0.1"
    )
    assert text.endswith(expected)


@pytest.mark.parametrize(
    ("command", "values"),
    [
        (["pytest"], {"seed": 1}),
        (COMMAND, {"name": "a", "seed": 1}),
        (COMMAND, {"wrapper": [1]}),
    ],
)
def test_a_point_without_a_command_has_general_advice(point, command, values):
    text = why_no_model(point(command, values))
    assert "sweeps keep no parameters" in text
    assert "fedjax-rec train CONFIG" in text
