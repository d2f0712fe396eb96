"""Two processes on CPUs, joined by gloo, are one run."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import pytest

from fedjax_rec.cli import main

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from fedjax_rec import CohortConfig, Execution, Experiment, FedAvg, SyntheticData

def get_config():
    return Experiment(
        name="small",
        data=SyntheticData(num_users=60, num_items=80, num_interactions=1500),
        algorithm=FedAvg(dim=4, negatives=1, client_lr=10.0),
        cohort=CohortConfig(sampling="uniform", size=30),
        execution=Execution(max_buckets=2),
        rounds=4,
        eval_every=2,
        seed=5,
    )
"""


def start(config, *options):
    command = [sys.executable, "-m", "fedjax_rec", "train", str(config), *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=env, cwd=config.parent, stdout=subprocess.PIPE, stderr=-1
    )


def numbers(tree):
    """Every number of plain values, but for times."""
    if isinstance(tree, dict):
        return [x for k, v in tree.items() if k != "seconds" for x in numbers(v)]
    if isinstance(tree, list):
        return [x for v in tree for x in numbers(v)]
    return [tree] if isinstance(tree, int | float) else []


def test_two_processes_give_the_numbers_of_one_and_write_once(tmp_path):
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ("--distributed", "--coordinator", f"localhost:{port}", "--processes=2")
    both = [
        start(config, *together, f"--process-id={i}", "--output", f"runs/{name}")
        for i, name in enumerate(("two", "never"))
    ]
    alone = start(config, "--output", "runs/one")
    for process in (*both, alone):
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()[-3000:]
    runs = tmp_path / "runs"
    assert sorted(p.name for p in runs.iterdir()) == ["one", "two"]
    one, two = (
        json.loads((runs / n / "result.json").read_text()) for n in ("one", "two")
    )
    for part in ("metrics", "baselines", "selected", "data"):
        assert numbers(two[part]) == pytest.approx(numbers(one[part]), abs=1e-5)
    versions = json.loads((runs / "two" / "versions.json").read_text())
    assert len(versions["devices"]) == 2 * len(
        json.loads((runs / "one" / "versions.json").read_text())["devices"]
    )
    lines = [
        (runs / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 7
    for mine, theirs in zip(*(map(json.loads, some) for some in lines), strict=True):
        assert numbers(theirs) == pytest.approx(numbers(mine), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "2"], "need --coordinator"),
        (["--coordinator", "here", "--processes", "2"], "expected HOST:PORT"),
        (["--coordinator", "h:1", "--processes", "2"], "its own id from 0"),
        (
            ["--coordinator", "h:1", "--processes", "2", "--process-id", "2"],
            "its own id from 0",
        ),
    ],
)
def test_what_does_not_tell_where_the_others_are(tmp_path, capsys, options, message):
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    assert main(["train", str(config), "--distributed", *options]) == 2
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.py"]
