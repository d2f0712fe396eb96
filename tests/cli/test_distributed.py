"""Two processes on CPUs, joined by gloo, are one run."""

import json
import shutil
import signal
import socket

import numpy as np
import pytest

from fedjax_rec.cli import main, training
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.experiment.prepared import key_of
from fedjax_rec.simulation.mesh import deal
from fedjax_rec.storage.cache import recall

CONFIG = '''
"""Small."""
from fedjax_rec import (
    SGD, Execution, Experiment, FedAvg, MatrixFactorization, SyntheticData, Uniform,
)

def get_config():
    return Experiment(
        name="small",
        data=SyntheticData(num_users=60, num_items=80, num_interactions=1500),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=4),
            negatives=1,
            client_optimizer=SGD(lr=10.0),
        ),
        cohort=Uniform(size=30),
        execution=Execution(max_buckets=2),
        rounds=4,
        eval_every=2,
        seed=5,
    )
'''
TWO_DEVICES = "import jax; jax.config.update('jax_num_cpu_devices', 2)"


def pair(fork, folder, commands, before="", caches=(None, None), second=""):
    """Status and output of two processes of one run.

    Args:
        fork: fixture that starts processes.
        folder: their working folder.
        commands: the command of each.
        before: code that runs before the commands.
        caches: folder of the cache of each.
        second: code that runs in the second process only.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    joined = ("--distributed", "--coordinator", f"localhost:{port}", "--processes=2")
    processes = [
        fork(
            [*command, *joined, f"--process-id={i}"],
            folder,
            f"{before}\n{second if i else ''}",
            caches[i],
            f"output-{i}.txt",
        )
        for i, command in enumerate(commands)
    ]
    return [process.wait() for process in processes]


def numbers(tree):
    """Every number of plain values, but for times."""
    if isinstance(tree, dict):
        return [x for k, v in tree.items() if k != "seconds" for x in numbers(v)]
    if isinstance(tree, list):
        return [x for v in tree for x in numbers(v)]
    return [tree] if isinstance(tree, int | float) else []


def spoil(prepared, buckets, shares, present):
    """Overwrites cached data of clients in other shares.

    Args:
        prepared: the cached data, as memory maps.
        buckets: size buckets of the clients.
        shares: number of shares.
        present: shares that stay as they are.

    Returns:
        The number of values overwritten.
    """
    data = prepared.clients
    stays = np.zeros(data.num_clients, bool)
    dealt = deal(buckets, shares)
    stays[np.concatenate([dealt[share] for share in present])] = True
    assert 0 < stays.sum() < len(stays)
    spoiled = 0

    def write(array, rows=None):
        nonlocal spoiled
        assert isinstance(array, np.memmap)
        assert array.filename is not None
        values = np.load(array.filename, mmap_mode="r+")
        rows = np.ones(len(values), bool) if rows is None else rows
        values[rows] = -(10**6)
        values.flush()
        spoiled += rows.sum()

    def rows_of(lists, length):
        rows = np.ones(length, bool)
        for client in np.flatnonzero(stays):
            first = int(lists.offset[client])
            rows[first : first + int(lists.size[client])] = False
        return rows

    for lists in (data.interactions, data.exclude):
        for column in lists.columns.values():
            write(column, rows_of(lists, len(column)))
    for column in ("user", "item", "rating", "timestamp", "position"):
        write(getattr(prepared.split.train, column))
    for targets in prepared.targets.values():
        rows = np.ones(len(targets.exclude_items), bool)
        for index, user in enumerate(targets.user):
            if stays[prepared.serving[user]]:
                first = targets.exclude_offset[index]
                rows[first : first + targets.exclude_size[index]] = False
        write(targets.exclude_items, rows)
    return spoiled


def test_two_processes_give_the_numbers_of_one_and_read_their_own_clients(
    folder, fork, monkeypatch
):
    (folder / "small.py").write_text(CONFIG)
    caches = [folder / "cache", folder / "second"]
    made = []

    def build(experiment, *, build=training.build, **options):
        made.append(build(experiment, **options))
        return made[0]

    monkeypatch.setattr(training, "build", build)
    assert main(["train", "small.py", "--output", "runs/one", "--quiet"]) == 0
    # The second process has no other data than those of its own clients.
    shutil.copytree(caches[0] / "populations", caches[1] / "populations")
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(caches[1]))
    experiment, _ = load_config("small.py")
    prepared = recall(caches[1] / "populations", key_of(experiment) or "")
    buckets = made[0].data.buckets
    assert spoil(prepared, buckets, shares=4, present=(2, 3)) > 10_000
    train = ["train", "small.py", "--output"]
    commands = [[*train, "runs/two"], [*train, "runs/never"]]
    for status, output in pair(fork, folder, commands, TWO_DEVICES, caches):
        assert status == 0, output[-3000:]
    runs = folder / "runs"
    assert sorted(p.name for p in runs.iterdir()) == ["one", "two"]
    one, two = (
        json.loads((runs / n / "result.json").read_text()) for n in ("one", "two")
    )
    for part in ("metrics", "baselines", "selected", "data"):
        assert numbers(two[part]) == pytest.approx(numbers(one[part]), abs=1e-5)
    versions = json.loads((runs / "two" / "versions.json").read_text())
    assert len(versions["devices"]) == 4
    lines = [
        (runs / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")
    ]
    assert len(lines[0]) == len(lines[1]) == 7
    for first, second in zip(*(map(json.loads, x) for x in lines), strict=True):
        assert numbers(second) == pytest.approx(numbers(first), abs=1e-5)


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
def test_processes_that_cannot_find_one_another(folder, fails, options, message):
    (folder / "small.py").write_text(CONFIG)
    assert message in fails("train", "small.py", "--distributed", *options)
    assert sorted(p.name for p in folder.iterdir()) == ["small.py"]


REFUSING = """
from fedjax_rec.cli import training
def refuse(experiment, **options):
    raise ValueError("no backbone on this host")
training.build = refuse
"""


@pytest.mark.parametrize("refusing", [0, 1])
def test_what_one_process_refuses_all_refuse_with_its_message(folder, fork, refusing):
    (folder / "small.py").write_text(CONFIG)
    (folder / "run").mkdir()
    message = "no backbone on this host"
    if refusing == 0:
        (folder / "run" / "notes.txt").touch()
        message = "run holds notes.txt and no run; expected an empty folder"
    command = ["train", "small.py", "--output", "run", "--quiet"]
    second = REFUSING if refusing else ""
    for status, output in pair(fork, folder, [command] * 2, second=second):
        assert status == 2, output[-3000:]
        assert message in output
        assert "Traceback" not in output
    assert not (folder / "run" / "config.json").exists()


LONG = CONFIG.replace("rounds=4", "rounds=400").replace(
    "eval_every=2", "eval_every=400"
)
STOPPING = """
import signal
from fedjax_rec.cli.progress import Progress
call = Progress.__call__
def stopping(self, event):
    call(self, event)
    if event["round"] == 3:
        os.kill(os.getpid(), signal.SIGUSR1)
Progress.__call__ = stopping
"""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_of_them_with_a_checkpoint(folder, fork):
    (folder / "small.py").write_text(LONG)
    command = ["train", "small.py", "--output", "run", "--quiet"]
    for status, output in pair(fork, folder, [command] * 2, second=STOPPING):
        assert status == 128 + signal.SIGUSR1, output[-3000:]
        assert "Traceback" not in output
    (checkpoint,) = (p.name for p in (folder / "run/checkpoints").glob("[0-9]*"))
    assert 3 <= int(checkpoint) < 400
    command = ["train", "--resume", "run", "--quiet"]
    for status, output in pair(fork, folder, [command] * 2):
        assert status == 0, output[-3000:]
    lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    rounds = [line["round"] for line in lines if line["event"] == "round"]
    assert rounds == list(range(1, 401))


SPLIT = '''
"""A backbone split over the devices of two processes."""
from fedjax_rec import (
    BackboneConfig, Execution, Experiment, FedFM, LoRA, MeshConfig, SyntheticData
)

def get_config():
    return Experiment(
        name="split",
        data=SyntheticData(num_users=20, num_items=30, num_interactions=300),
        algorithm=FedFM(dim=4, negatives=1, adapter=LoRA(layers=1, rank=2)),
        backbone=BackboneConfig(name="tiny", max_tokens=8),
        execution=Execution(max_buckets=1),
        mesh=MeshConfig(model=4),
        rounds=2,
        eval_every=2,
    )
'''


@pytest.mark.slow
def test_a_backbone_split_over_two_processes_runs_and_resumes(folder, fork):
    (folder / "split.py").write_text(SPLIT)
    command = ["train", "split.py", "--output", "run", "--quiet"]
    for status, output in pair(fork, folder, [command] * 2, TWO_DEVICES):
        assert status == 0, output[-3000:]
    prepared = json.loads((folder / "run/versions.json").read_text())["prepared"]
    assert prepared["backbone"]
    command = ["train", "--resume", "run", "--rounds", "4", "--quiet"]
    for status, output in pair(fork, folder, [command] * 2, TWO_DEVICES):
        assert status == 0, output[-3000:]
    lines = map(json.loads, (folder / "run/metrics.jsonl").read_text().splitlines())
    rounds = [line["round"] for line in lines if line["event"] == "round"]
    assert rounds == [1, 2, 3, 4]
