"""Two processes on CPUs, joined by gloo, are one run."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from fedjax_rec.experiment.population import key_of

from fedjax_rec import build
from fedjax_rec.cli import main
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.simulation.mesh import deal
from fedjax_rec.storage.cache import recall

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


def start(config, cache, *options):
    command = [sys.executable, "-m", "fedjax_rec", "train", str(config), *options]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "FEDJAX_REC_CACHE": str(cache)}
    env["JAX_NUM_CPU_DEVICES"] = "2"
    return subprocess.Popen(
        command, env=env, cwd=config.parent, stdout=subprocess.PIPE, stderr=-1
    )


def end(*processes):
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err.decode()[-3000:]


def numbers(tree):
    """Every number of plain values, but for times."""
    if isinstance(tree, dict):
        return [x for k, v in tree.items() if k != "seconds" for x in numbers(v)]
    if isinstance(tree, list):
        return [x for v in tree for x in numbers(v)]
    return [tree] if isinstance(tree, int | float) else []


def spoil(population, data, shares, own):
    """Overwrites what clients of other shares hold in a kept population's files."""
    mine = np.zeros(data.num_clients, bool)
    mine[np.concatenate([deal(data.buckets, shares)[share] for share in own])] = True
    assert 0 < mine.sum() < len(mine)
    spoiled = 0

    def write(array, rows=None):
        nonlocal spoiled
        assert isinstance(array, np.memmap)
        assert array.filename is not None
        there = np.load(array.filename, mmap_mode="r+")
        rows = np.ones(len(there), bool) if rows is None else rows
        there[rows] = -(10**6)
        there.flush()
        spoiled += rows.sum()

    def rows_of(lists, length):
        rows = np.ones(length, bool)
        for client in np.flatnonzero(mine):
            first = int(lists.offset[client])
            rows[first : first + int(lists.size[client])] = False
        return rows

    for lists in (population.clients.interactions, population.clients.exclude):
        for column in lists.columns.values():
            write(column, rows_of(lists, len(column)))
    for column in ("user", "item", "rating", "timestamp", "position"):
        write(getattr(population.split.train, column))
    for targets in population.targets.values():
        rows = np.ones(len(targets.exclude_items), bool)
        for at, user in enumerate(targets.user):
            if mine[population.serving[user]]:
                first = targets.exclude_offset[at]
                rows[first : first + targets.exclude_size[at]] = False
        write(targets.exclude_items, rows)
    return spoiled


def test_two_processes_give_the_numbers_of_one_and_read_their_own_clients(
    tmp_path, monkeypatch
):
    config = tmp_path / "small.py"
    config.write_text(CONFIG)
    caches = [tmp_path / "first", tmp_path / "second"]
    end(start(config, caches[0], "--output", "runs/one"))
    # The second process finds nothing but its own clients' data in what was prepared.
    shutil.copytree(caches[0] / "populations", caches[1] / "populations")
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(caches[1]))
    experiment, _ = load_config(str(config))
    key = key_of(experiment)
    data = build(experiment).data
    kept = recall(caches[1] / "populations", key)
    assert spoil(kept, data, shares=4, own=(2, 3)) > 10_000
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ("--distributed", "--coordinator", f"localhost:{port}", "--processes=2")
    end(
        *[
            start(config, caches[i], *together, f"--process-id={i}", "--output", where)
            for i, where in enumerate(("runs/two", "runs/never"))
        ]
    )
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
