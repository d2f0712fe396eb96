"""`fedjax-rec sweep` from the command line: folders, continuation, failures, errors."""

import dataclasses
import importlib.util
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.cli import main, training
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.experiment.build import build
from fedjax_rec.runs.writer import RunFolder
from fedjax_rec.simulation.baselines import rank_baselines
from fedjax_rec.simulation.side_by_side import SideBySide
from fedjax_rec.simulation.simulation import Simulation
from fedjax_rec.storage.errors import DiskFull
from fedjax_rec.sweep import point_run, run_points
from fedjax_rec.sweep.store import SweepFolder

SMALL = '''
"""What to expect."""
from fedjax_rec import Execution, Experiment, FedMF, SyntheticData

def get_config():
    return Experiment(
        name="small",
        data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
        algorithm=FedMF(dim=4, feedback="explicit", client_lr=0.05),
        execution=Execution(max_buckets=1),
        rounds=2,
        eval_every=1,
    )
'''
FIELD = "algorithm.client-lr"
RATES, SEEDS = ["--grid", f"{FIELD}=0.01,0.05"], ["--grid", "seed=0:2"]
NAMES = [f"client_lr={rate},seed={seed}" for rate in (0.01, 0.05) for seed in (0, 1)]


@pytest.fixture(scope="module")
def programs(again):
    """Compiled programs of points side by side, which all tests share."""
    made = {}

    def build_common(experiment, *, recipe_of=None, **options):
        if recipe_of is None:
            return again(experiment, **options)
        algorithm = dataclasses.replace(experiment.algorithm, client_lr=1.0)
        key = dataclasses.replace(experiment, algorithm=algorithm, seed=0, name="")
        if key not in made:
            made[key] = build(experiment, recipe_of=recipe_of, **options)
        return made[key]

    def side_by_side(simulation, shape, devices):
        key = id(simulation), shape
        if key not in made:
            made[key] = SideBySide(simulation, shape, devices)
        return made[key]

    def ranked(simulation, roots):
        return [_ranked(simulation, root) for root in roots]

    def _ranked(simulation, root):
        key = id(simulation), simulation.rounds, str(root)
        if key not in made:
            made[key] = rank_baselines(simulation, [root])[0]
        return dict(made[key])

    return {
        "build": build_common,
        "SideBySide": side_by_side,
        "rank_baselines": ranked,
    }


@pytest.fixture(autouse=True)
def config(folder, monkeypatch, programs, again):
    """A config file in the working folder."""
    (folder / "small.py").write_text(SMALL)
    monkeypatch.setattr(training, "build", again)
    for name, program in programs.items():
        monkeypatch.setattr(run_points, name, program)
    return folder


def sweep(*args):
    return main(["sweep", "small.py", "--output", "out", *args])


def points_of(folder):
    return json.loads((folder / "out" / "sweep.json").read_text())["points"]


def metrics(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]


def test_a_sweep_from_end_to_end_and_again_and_more(config, capsys, fails):
    assert sweep(*RATES, *SEEDS) == 0
    output = capsys.readouterr()
    assert "4 points as one program" in output.err
    assert "best" in output.out
    points = points_of(config)
    assert list(points) == NAMES
    assert {point["status"] for point in points.values()} == {"finished"}
    out = config / "out"
    for name in ("table.csv", "table.md", "client_lr.png", "learning_curves.png"):
        assert (out / name).stat().st_size > 0
    # Each point is a run as `train` would have made it.
    assert main(["train", "small.py", f"--{FIELD}", "0.05", "--seed", "1",
                 "--output", "alone", "--quiet"]) == 0  # fmt: skip
    ours, alone = out / NAMES[3], config / "alone"
    for name in ("config.json", "versions.json", "metrics.jsonl", "report.md"):
        assert (ours / name).exists()
    assert (ours / "config.json").read_text() == (alone / "config.json").read_text()
    for part, values in metrics(alone).items():
        assert metrics(ours)[part] == pytest.approx(values, abs=1e-6)
    results = [json.loads((f / "result.json").read_text()) for f in (ours, alone)]
    assert results[0]["baselines"] == results[1]["baselines"]
    assert results[0].keys() == results[1].keys()
    assert main(["report", "out", "--output", "compared"]) == 0
    text = (config / "compared" / "comparison.md").read_text()
    assert "| FedMF client_lr=0.01 x 2 |" in text  # seeds together
    capsys.readouterr()

    # Again: nothing runs. Another grid: only what is new, and its row joins the table.
    before = (ours / "metrics.jsonl").stat().st_mtime_ns
    assert sweep(*RATES, *SEEDS) == 0
    assert "4 finished before and kept" in capsys.readouterr().err
    assert sweep(*SEEDS, *RATES) == 0  # in another order the points are the same
    assert "4 finished before and kept" in capsys.readouterr().err
    assert list(points_of(config)) == NAMES
    assert sweep("--grid", f"{FIELD}=0.05,0.06,0.07", *SEEDS) == 0
    assert "2 finished before and kept" in capsys.readouterr().err
    assert (ours / "metrics.jsonl").stat().st_mtime_ns == before
    assert len(points_of(config)) == 8
    rows = (out / "table.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == [
        "algorithm.client_lr", "0.01", "0.05", "0.06", "0.07"
    ]  # fmt: skip

    # Another base does not mix with these points.
    text = fails("sweep", "small.py", "--output", "out", "--rounds", "3", *RATES)
    assert "holds a sweep of another config: small.rounds: 2 there, 3 now" in text


def test_an_interrupted_sweep_goes_on(config, capsys, monkeypatch):
    complete = SideBySide.events

    def interrupted(self, *args):
        for count, event in enumerate(complete(self, *args)):
            if count == 5:
                raise KeyboardInterrupt
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(SideBySide, "events", interrupted)
        assert sweep(*RATES, *SEEDS) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    points = points_of(config)
    assert {point["status"] for point in points.values()} == {"waiting"}
    # One point was finished before the kill, and its neighbours only begun.
    assert sweep("--grid", f"{FIELD}=0.05", "--grid", "seed=1") == 0
    kept = (config / "out" / NAMES[3] / "result.json").stat().st_mtime_ns
    assert sweep(*RATES, *SEEDS) == 0
    assert "1 finished before and kept" in capsys.readouterr().err
    points = points_of(config)
    assert {point["status"] for point in points.values()} == {"finished"}
    assert (config / "out" / NAMES[3] / "result.json").stat().st_mtime_ns == kept
    for name in NAMES:  # no line of the interrupted attempt is left
        lines = (config / "out" / name / "metrics.jsonl").read_text().splitlines()
        rounds = [json.loads(x)["round"] for x in lines if '"event": "round"' in x]
        assert rounds == [1, 2]


def lines_of(folder):
    """The events of a run without their seconds."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


ONE, WILD = ["--grid", f"{FIELD}=0.05"], ["--grid", f"{FIELD}=0.05,1e38"]


@pytest.mark.parametrize(
    ("rates", "seeds"),
    [(RATES, SEEDS), (ONE, ["--grid", "seed=1"]), (WILD, ["--grid", "seed=1"])],
    ids=["all", "one", "diverged"],
)
def test_points_that_a_signal_stopped_go_on_from_their_round(
    config, capsys, monkeypatch, rates, seeds
):
    assert main(["sweep", "small.py", "--output", "whole", *rates, *seeds]) == 0
    append = RunFolder.append

    def signalled(self, event):
        append(self, event)
        if (event["event"], event["round"]) == ("round", 1):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append", signalled)
        with pytest.raises(SystemExit) as stopped:
            sweep(*rates, *seeds)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "the same command goes on from here" in capsys.readouterr().err
    points = points_of(config)
    assert {point["status"] for point in points.values()} == {"waiting"}
    saved = list((config / "out").glob("*/checkpoints/1"))
    assert len(saved) == min(2, len(points))  # the block that ran
    begun = {path.parent.parent.name for path in saved}
    assert sweep(*rates, *seeds) == 0
    for name in points:
        ours, whole = config / "out" / name, config / "whole" / name
        assert lines_of(ours) == lines_of(whole)
        result, expected = (
            {k: v for k, v in json.loads((f / "result.json").read_text()).items()
             if k != "seconds"}
            for f in (ours, whole)
        )  # fmt: skip
        assert result == expected
        versions = json.loads((ours / "versions.json").read_text())
        resumed = [life["round"] for life in versions.get("resumed", [])]
        assert resumed == ([1] if name in begun else [])
        assert not (ours / "checkpoints").exists()  # the result is all that is left
    states, whole = (
        json.loads((config / name / "sweep.json").read_text())["points"]
        for name in ("out", "whole")
    )
    assert states == whole


def test_a_point_of_other_software_or_data_does_not_go_on(config, monkeypatch):
    one = ["--grid", "seed=1"]

    def stopped(self, done):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(point_run, "SAVE_SECONDS", -1)
        patch.setattr(point_run.Pauses, "saved", stopped)
        assert sweep(*one) == 130
    folder = config / "out" / "seed=1"
    point = SweepFolder(config / "out", [load_config("small.py")[0]]).add({"seed": 1})
    written = json.loads((folder / "versions.json").read_text())
    assert point_run.start_round(point, config / "out", written) == 1
    other = {**written, "jax": "0.0.1"}
    assert point_run.start_round(point, config / "out", other) == 0
    prepared = {**written["prepared"], "train": "0123456789abcdef"}
    (folder / "versions.json").write_text(json.dumps({**written, "prepared": prepared}))
    assert sweep(*one) == 1
    error = points_of(config)["seed=1"]["error"]
    assert "began with other data. Remove it to start the point again" in error
    (folder / "versions.json").write_text(json.dumps(other))
    assert sweep(*one) == 0  # from the first round
    assert "resumed" not in json.loads((folder / "versions.json").read_text())


def test_a_failed_point_is_recorded_and_the_others_go_on(config, capsys, monkeypatch):
    def all_fail(self, *args):
        raise RuntimeError("no room on the device")
        yield

    complete = Simulation.events

    def one_fails(self, *args):
        if self.seed == 1:
            raise FloatingPointError("this one")
        yield from complete(self, *args)

    one_rate = ["--grid", f"{FIELD}=0.05", *SEEDS]
    names = NAMES[2:]
    with monkeypatch.context() as patch:
        patch.setattr(SideBySide, "events", all_fail)
        patch.setattr(Simulation, "events", one_fails)
        assert sweep(*one_rate) == 1
    output = capsys.readouterr()
    assert (
        "the common program failed (RuntimeError: no room on the device)" in output.err
    )
    assert f"failed: {names[1]}: FloatingPointError: this one" in output.out
    points = points_of(config)
    assert [points[n]["status"] for n in names] == ["finished", "failed"]
    assert "FloatingPointError: this one (test_sweep.py:" in points[names[1]]["error"]
    assert "1 (1 failed)" in (config / "out" / "table.md").read_text()
    assert sweep(*one_rate) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "1 finished before and kept, 1 failed before and run again" in text
    assert "error" not in points_of(config)[names[1]]


def test_points_that_another_sweep_has_added_since_are_kept(config):
    experiment, _ = load_config("small.py")
    first, second = (SweepFolder(config / "out", [experiment]) for _ in range(2))
    with first.locked():
        first.add({"seed": 1})
        first.geometric = ["seed"]
        first.save()
    with second.locked():
        second.add({"seed": 2})
        second.save()
        assert second.geometric == ["seed"]
    assert list(points_of(config)) == ["seed=1", "seed=2"]


def test_a_full_disk_ends_the_sweep_and_keeps_what_is_done(
    config, capsys, monkeypatch, fails
):
    complete = RunFolder._add

    def full(self, name, value):
        if name == "metrics.jsonl" and value["event"] == "baselines":
            seen.append(self.path.name)
            if len(seen) == 3:
                raise DiskFull("cannot be written (no room)", file=self.path / name)
        complete(self, name, value)

    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "_add", full)
        text = fails("sweep", "small.py", "--output", "out", *RATES, *SEEDS)
    assert "metrics.jsonl: cannot be written (no room). Points that are done" in text
    assert "common program failed" not in text
    assert len(seen) == 3
    points = points_of(config)
    states = sorted(point["status"] for point in points.values())
    assert states == ["finished"] * 2 + ["waiting"] * 2
    for name in NAMES:
        done = (config / "out" / name / "result.json").exists()
        assert done == (points[name]["status"] == "finished")
    assert not list((config / "out").rglob(".partial-*"))
    (config / "out" / NAMES[0] / "report.md").unlink()  # had no room, either
    assert sweep(*RATES, *SEEDS) == 0
    assert "2 finished before and kept" in capsys.readouterr().err
    assert (config / "out" / NAMES[0] / "report.md").stat().st_size


def test_shapes_follow_one_another_and_wild_points_are_results(config, capsys):
    status = sweep(
        "--grid", "algorithm.dim=2,4", "--grid", f"{FIELD}=0.01,1e38",
    )  # fmt: skip
    assert status == 0
    assert capsys.readouterr().err.count("2 points as one program") == 2
    wild = config / "out" / "dim=2,client_lr=1e+38"
    result = json.loads((wild / "result.json").read_text())
    assert result["diverged_in_round"] >= 1
    assert points_of(config)[wild.name]["status"] == "finished"
    text = (config / "out" / "table.md").read_text()
    assert "1 (1 diverged)" in text
    best = next(line for line in text.splitlines() if line.startswith("| best"))
    assert "1e+38" not in best


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "nothing to sweep; expected for example --grid"),
        (["--grid", "algorithm.cleint-lr=1"], "The nearest: --algorithm.client-lr"),
        (["--grid", f"{FIELD}=-1"], "must be finite and not negative"),
        (["--grid", "algorithm.dim=0"], "dim must be at least 1, got 0"),
        (["--grid", "codec.name=int8,sign"], "--codec.name is now --codec KIND"),
        (["--grid", "codec=none,int8"], "It is now --codec block_int --codec.bits 8"),
        (["--grid", "codec=top_k,topp_k"], "Did you mean top_k?"),
        (["--grid", "codec.fraction=.1,.2"], "fraction is a field of --codec top_k"),
        ([*RATES, *RATES], "algorithm.client-lr is swept twice"),
        ([*RATES, "--jobs", "0"], "--jobs must be at least 1, got 0"),
        ([*RATES, "--batch", "0"], "--batch must be at least 1"),
        ([*RATES, "--points", "-1"], "--points must be at least 0, got -1"),
        ([*RATES, "--points", "1", "--optuna", "1"], "expected one of them"),
        ([*RATES, "--memory", "lots"], "expected bytes such as 500M or 4G"),
        ([*RATES, "--start-from", "run"], "--start-from is an option of train"),
        ([*RATES, "--points", "3"], "--points needs ranges"),
        (["--sample", "seed=uniform:0:9"], "--sample needs --points N"),
        ([*RATES, "--output", "small.py"], "is a file"),
        ([*RATES, "--output", "."], "and no sweep; expected an empty folder"),
        ([*RATES, "--engine", "slurm"], "--engine slurm: expected one of local, ray"),
        ([*RATES, "--data", "files"], "Pass --data.dir DIR"),
    ],
)
def test_mistakes_are_shown_before_anything_runs(config, fails, args, expected):
    output = [] if "--output" in args else ["--output", "out"]
    assert expected in fails("sweep", "small.py", *output, *args)
    assert not (config / "out" / "sweep.json").exists()


def test_help_teaches(capsys):
    assert main(["sweep", "--help"]) == 0
    output = capsys.readouterr().out
    assert "--grid FIELD=log:1e-3:1:7" in output
    assert "The same command again continues" in output
    assert main(["sweep"]) == 2
    assert main(["sweep", "small.py", "--help"]) == 0
    assert "--optuna" in capsys.readouterr().out


def needs(package):
    found = importlib.util.find_spec(package)
    reason = f"{package} is not installed (the extra `sweep`)"
    return pytest.mark.skipif(found is None, reason=reason)


def finished_alike(config, capsys, *engine):
    """Points that an engine ran equal those of this process."""
    assert sweep(*RATES, *SEEDS, *engine) == 0, capsys.readouterr()
    points = points_of(config)
    assert {point["status"] for point in points.values()} == {"finished"}
    assert main(["sweep", "small.py", "--output", "in-turn", *RATES, *SEEDS]) == 0
    for name in NAMES:
        for part, values in metrics(config / "in-turn" / name).items():
            assert metrics(config / "out" / name)[part] == pytest.approx(
                values, abs=1e-6
            )


@pytest.mark.slow
def test_processes_side_by_side(config, capsys):
    finished_alike(config, capsys, "--jobs", "2")


@pytest.mark.slow
@needs("ray")
def test_ray_runs_the_same_points(config, capsys):
    finished_alike(config, capsys, "--engine", "ray", "--jobs", "2")


@pytest.mark.slow
@needs("optuna")
def test_optuna_chooses_by_validation_and_goes_on(config, capsys, fails):
    ranges = ["--sample", f"{FIELD}=log:0.01:100", "--sample",
              "algorithm.dim=choice:2,4", "--batch", "3", *SEEDS]  # fmt: skip
    assert sweep("--optuna", "3", *ranges) == 0
    first = points_of(config)
    assert len(first) == 6
    assert sweep("--optuna", "5", *ranges) == 0
    points = points_of(config)
    assert len(points) == 10
    assert dict(list(points.items())[:6]) == first
    rates = {p["values"]["algorithm.client_lr"] for p in points.values()}
    assert len(rates) == 5
    assert np.log10(list(rates)).min() >= -2
    assert "Did you mean" not in capsys.readouterr().err
    text = fails("sweep", "small.py", "--optuna", "5", *ranges, *RATES)
    assert "swept twice" in text


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is not None, reason="Ray is installed"
)
def test_without_ray_its_extra_is_named(fails):
    text = fails("sweep", "small.py", *RATES, "--engine", "ray")
    assert "pip install 'fedjax-rec[sweep]'" in text


SEVERAL = (
    SMALL
    + """
import dataclasses
first = get_config()

def get_config():
    other = dataclasses.replace(first.algorithm, dim=2)
    return first, dataclasses.replace(first, name="narrow", algorithm=other)

def get_grid():
    return ("codec=none,bf16", "seed=0:2")
"""
)


def test_a_config_of_several_experiments_has_its_own_grid(config, fails):
    (config / "small.py").write_text(SEVERAL)
    assert sweep("--grid", "seed=3", "--rounds", "1") == 0
    points = points_of(config)
    assert [point["values"] for point in points.values()] == [
        {"name": name, "codec": codec, "seed": 3}
        for name in ("small", "narrow")
        for codec in ("none", "bf16")
    ]
    configs = [
        json.loads((config / "out" / p / "config.json").read_text()) for p in points
    ]
    assert [run["algorithm"]["dim"] for run in configs] == [4, 4, 2, 2]
    assert [run["rounds"] for run in configs] == [1] * 4
    assert [run["codec"] and run["codec"]["type"] for run in configs] == [
        None, "BF16", None, "BF16"
    ]  # fmt: skip
    assert (config / "out" / "front.png").stat().st_size > 0
    table = (config / "out" / "table.md").read_text()
    assert "narrow" in table
    assert "bf16" in table
    wrong = fails("sweep", "small.py", "--grid", "name=narow")
    assert "expected one of small, narrow. Did you mean narrow?" in wrong
    assert "leave out --name" in fails("sweep", "small.py", "--name", "other")
    assert "has 2 experiments (small, narrow)" in fails("train", "small.py")


def test_a_sweep_of_kinds_and_of_their_fields(config, monkeypatch):
    """No point runs: what counts is the experiments that they would run."""
    seen = []
    monkeypatch.setattr(
        "fedjax_rec.sweep.session.run_points",
        lambda points, *args: seen.extend(points),
    )
    grid = ["--grid", "codec=top_k,random_k+qsgd", "--grid", "codec.fraction=0.2,0.3"]
    assert sweep(*grid, "--codec", "none") == 0
    codecs = [point.experiment.codec for point in seen]
    assert [codec.fraction for codec in codecs] == [0.2, 0.3] * 2
    assert [type(codec.then).__name__ for codec in codecs] == ["NoneType"] * 2 + [
        "QSGD"
    ] * 2
    assert Path("out", "codec=top_k,fraction=0.2").name in points_of(config)
