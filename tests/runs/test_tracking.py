"""Trackers: the events they receive, and that none of them ends a run."""

import importlib.util
import json
import struct
import sys
import types
from typing import Any

import pytest

from fedjax_rec.runs import tracking
from fedjax_rec.runs.folder import open_run
from fedjax_rec.runs.writer import RunFolder

ROUND = {"event": "round", "round": 1, "seconds": 0.5, "loss": 0.75, "up_bytes": 64}
EVALUATION = {
    "event": "evaluation",
    "round": 2,
    "val": {"ndcg@10": 0.25},
    "test": {"ndcg@10": 0.125},
    "rmse_train": 1.5,
    "seconds": 2.0,
}
BASELINES = {
    "event": "baselines",
    "round": 2,
    "random": {"hr@10": 0.0625},
    "draw_count": None,
    "seconds": 1.0,
}


class Recorder:
    """A tracker that fails at its `failing`-th event."""

    def __init__(self, failing=0):
        self.events, self.closed, self.failing = [], None, failing

    def log(self, event):
        self.events.append(event)
        if len(self.events) == self.failing:
            raise OSError("no route")

    def close(self, finished):
        self.closed = finished


def installed(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None,
        reason=f"{package} is not installed (extra `tracking`)",
    )


def test_scalars_have_the_names_that_trackers_show():
    assert tracking.scalars(ROUND) == {
        "seconds/round": 0.5,
        "round/loss": 0.75,
        "round/up_bytes": 64.0,
    }
    assert tracking.scalars(EVALUATION) == {
        "val/ndcg@10": 0.25,
        "test/ndcg@10": 0.125,
        "train/rmse": 1.5,
        "seconds/evaluation": 2.0,
    }
    assert tracking.scalars(BASELINES) == {
        "baselines/random/hr@10": 0.0625,
        "seconds/baselines": 1.0,
    }


def test_names_come_one_by_one_or_as_a_list(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert tracking.kinds_of(["wandb, tensorboard", "wandb"]) == (
        "wandb",
        "tensorboard",
    )
    with pytest.raises(tracking.TrackingError, match="expected tensorboard or wandb"):
        tracking.kinds_of(["mlflow"])


def test_an_absent_package_is_reported_with_its_installation(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        with pytest.raises(tracking.TrackingError, match=rf"needs {package}: pip .*\["):
            tracking.kinds_of([name])


def test_a_tracker_that_fails_is_dropped_with_one_warning():
    warnings, bad, good = [], Recorder(failing=2), Recorder()
    both = tracking.Guard({"bad": bad, "good": good}, warnings.append)
    for number in range(4):
        both.log({**ROUND, "round": number})
    both.close(True)
    assert [e["round"] for e in bad.events] == [0, 1]
    assert [e["round"] for e in good.events] == [0, 1, 2, 3]
    assert (bad.closed, good.closed) == (None, True)
    assert len(warnings) == 1
    assert "bad failed (OSError: no route)" in warnings[0]


def test_a_folder_writes_before_its_tracker_receives(tmp_path):
    folder, recorder = RunFolder(tmp_path), Recorder(failing=1)
    folder.tracker = tracking.Guard({"recorder": recorder}, lambda text: None)
    folder.append(ROUND)
    folder.append(EVALUATION)
    folder.close()
    assert recorder.events == [ROUND]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["round", "evaluation"]


@pytest.fixture
def fake_wandb(monkeypatch):
    """Stands in for the package, and records its calls."""
    module: Any = types.ModuleType("wandb")
    module.calls = []

    class Run:
        def __init__(self, options):
            self.id = options["id"] or "fresh"
            self.project, self.entity = options["project"], ""

        def log(self, values, step):
            module.calls.append(("log", step, values))

        def finish(self, exit_code):
            module.calls.append(("finish", exit_code))

    def init(**options):
        module.calls.append(("init", options))
        return Run(options)

    module.init, module.Settings = init, dict
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(
        sys.modules, "fedjax_rec.runs.tracking.wandb_tracker", raising=False
    )
    for name in ("WANDB_PROJECT", "WANDB_NAME", "WANDB_RUN_GROUP", "WANDB_CONSOLE"):
        monkeypatch.delenv(name, raising=False)
    yield module
    sys.modules.pop("fedjax_rec.runs.tracking.wandb_tracker", None)


def test_wandb_keeps_one_run_over_all_lives(tmp_path, fake_wandb):
    folder = RunFolder(tmp_path)
    first = tracking.start(["wandb"], folder, {"seed": 3}, print, group="sweep")
    first.log(ROUND)
    first.close(False)
    kind, options = fake_wandb.calls[0]
    assert (kind, options["id"], options["resume"]) == ("init", None, "allow")
    assert options["config"] == {"seed": 3}
    assert (options["project"], options["group"]) == ("fedjax_rec", "sweep")
    assert options["dir"] == str(tmp_path)
    assert fake_wandb.calls[1:] == [
        ("log", 1, tracking.scalars(ROUND)),
        ("finish", 1),
    ]
    assert json.loads((tmp_path / "wandb.json").read_text())["id"] == "fresh"

    fake_wandb.calls.clear()
    second = tracking.start(["wandb"], folder, {"seed": 3}, print, [ROUND])
    second.log(EVALUATION)
    second.close(True)
    assert fake_wandb.calls[0][1]["id"] == "fresh"
    # Events of the first process are not sent again.
    assert [call[:2] for call in fake_wandb.calls[1:]] == [("log", 2), ("finish", 0)]


def test_a_tracker_new_to_a_continued_run_receives_its_history(tmp_path, fake_wandb):
    tracking.start(["wandb"], RunFolder(tmp_path), {}, print, [ROUND, EVALUATION])
    assert [call[:2] for call in fake_wandb.calls[1:]] == [("log", 1), ("log", 2)]


def test_a_tracker_that_does_not_start_gives_advice(tmp_path, fake_wandb):
    def init(**options):
        raise ConnectionError("not logged in")

    fake_wandb.init = init
    with pytest.raises(tracking.TrackingError, match=r"logged in\).*WANDB_MODE=off"):
        tracking.start(["wandb"], RunFolder(tmp_path), {}, print)


def test_a_run_that_starts_again_leaves_nothing_of_trackers(tmp_path):
    for _ in range(2):
        with open_run(tmp_path / "run", {"seed": 1}, {}) as folder:
            assert sorted(p.name for p in folder.path.iterdir()) == [
                ".lock",
                "config.json",
                "timings.jsonl",
                "versions.json",
            ]
            for name in ("tensorboard", "wandb", "profile"):
                (folder.path / name / "inside").mkdir(parents=True)
            for name in ("wandb.json", "profile.json"):
                folder.write_json(name, {})


def records(path):
    """Events of a TFRecord file: length, its checksum, data, their checksum."""
    proto = importlib.import_module("tensorboardX.proto.event_pb2")

    data, offset = path.read_bytes(), 0
    while offset < len(data):
        (size,) = struct.unpack("<Q", data[offset : offset + 8])
        yield proto.Event.FromString(data[offset + 12 : offset + 12 + size])
        offset += 16 + size


@installed("tensorboardX")
def test_tensorboard_reads_its_events_back(tmp_path):
    folder = RunFolder(tmp_path)
    tracker = tracking.start(["tensorboard"], folder, {}, print)
    tracker.log(ROUND)
    tracker.log(EVALUATION)
    # Not closed: a killed run has written its events, too.
    (file,) = (tmp_path / "tensorboard").iterdir()
    head, first, second = records(file)
    assert head.file_version == "brain.Event:2"
    assert first.step == 1
    assert {v.tag: v.simple_value for v in first.summary.value} == tracking.scalars(
        ROUND
    )
    assert second.step == 2
    assert {v.tag for v in second.summary.value} == tracking.scalars(EVALUATION).keys()
    tracker.close(True)


@installed("tensorboardX")
def test_tensorboard_drops_rounds_that_come_again(tmp_path):
    folder = RunFolder(tmp_path)
    first = tracking.start(["tensorboard"], folder, {}, print)
    for number in range(1, 6):
        first.log({**ROUND, "round": number})
    second = tracking.start(
        ["tensorboard"], folder, {}, print, [{**ROUND, "round": n} for n in (1, 2, 3)]
    )
    second.log({**ROUND, "round": 4})
    _, last = sorted((tmp_path / "tensorboard").iterdir())
    _, begins, after = records(last)
    assert begins.session_log.status == begins.session_log.START
    assert (begins.step, after.step) == (4, 4)


@installed("wandb")
def test_wandb_works_without_a_network(tmp_path, monkeypatch):
    sys.modules.pop("fedjax_rec.runs.tracking.wandb_tracker", None)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder, warnings = RunFolder(tmp_path), []
    for history in ([], [ROUND]):
        tracker = tracking.start(["wandb"], folder, {"a": 1}, warnings.append, history)
        tracker.log(EVALUATION)
        tracker.close(True)
    number = json.loads((tmp_path / "wandb.json").read_text())["id"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*-{number}/run-*.wandb"))
    assert files
    assert all(b"ndcg@10" in file.read_bytes() for file in files)
    assert not warnings
