"""`fedjax-rec sweep` from the command line: folders, continuation, failures, errors."""

import importlib.util
import json
import textwrap

import numpy as np
import pytest

from fedjax_rec.cli import main
from fedjax_rec.simulation.points import Points
from fedjax_rec.simulation.simulation import Simulation

SMALL = '''
    """What to expect."""
    from fedjax_rec import Execution, Experiment, FedAvg, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=FedAvg(dim=4, negatives=1, client_lr=5.0),
            execution=Execution(max_buckets=1),
            rounds=2,
            eval_every=1,
        )
'''
RATES, SEEDS = ["--grid", "algorithm.client-lr=1,5"], ["--grid", "seed=0:2"]
NAMES = [f"client_lr={rate},seed={seed}" for rate in (1, 5) for seed in (0, 1)]


@pytest.fixture(autouse=True)
def config(tmp_path, monkeypatch):
    """A config file in the test's own folder, where runs and caches stay, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(tmp_path / "cache"))
    (tmp_path / "small.py").write_text(textwrap.dedent(SMALL))
    return tmp_path


def sweep(*args):
    return main(["sweep", "small.py", "--output", "out", *args])


def told(folder):
    return json.loads((folder / "out" / "sweep.json").read_text())["points"]


def metrics(folder):
    return json.loads((folder / "result.json").read_text())["metrics"]


def fails(capsys, *args):
    try:
        status = sweep(*args)
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in shown.err
    return " ".join((shown.out + shown.err).replace("│", " ").split())


def test_a_sweep_from_end_to_end_and_again_and_more(config, capsys):
    assert sweep(*RATES, *SEEDS) == 0
    shown = capsys.readouterr()
    assert "4 points as one program" in shown.err
    assert "best" in shown.out
    assert "its test stands beside it and had no say" in " ".join(shown.out.split())
    points = told(config)
    assert list(points) == NAMES
    assert {point["status"] for point in points.values()} == {"finished"}
    out = config / "out"
    for name in ("table.csv", "table.md", "client_lr.png", "learning_curves.png"):
        assert (out / name).stat().st_size > 0
    # Each point is a run as `train` would have made it.
    assert main(["train", "small.py", "--algorithm.client-lr", "5", "--seed", "1",
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
    assert "| FedAvg client_lr=1.0 x 2 |" in text  # a line a rate, seeds together
    capsys.readouterr()

    # Again: nothing runs. Another grid: only what is new, and its row joins the table.
    before = (ours / "metrics.jsonl").stat().st_mtime_ns
    assert sweep(*RATES, *SEEDS) == 0
    assert "4 finished before and kept" in capsys.readouterr().err
    assert sweep(*SEEDS, *RATES) == 0  # in another order the points are the same
    assert "4 finished before and kept" in capsys.readouterr().err
    assert list(told(config)) == NAMES
    assert sweep("--grid", "algorithm.client-lr=5,25", *SEEDS) == 0
    assert "2 finished before and kept" in capsys.readouterr().err
    assert (ours / "metrics.jsonl").stat().st_mtime_ns == before
    assert len(told(config)) == 6
    rows = (out / "table.csv").read_text().splitlines()
    assert [row.split(",")[1] for row in rows] == [
        "algorithm.client_lr", "1.0", "5.0", "25.0"
    ]  # fmt: skip

    # Another base does not mix with these points.
    text = fails(capsys, "--rounds", "3", *RATES)
    assert "holds a sweep of another config: small.rounds: 2 there, 3 now" in text


def test_an_interrupted_sweep_goes_on(config, capsys, monkeypatch):
    whole = Points.events

    def interrupted(self, *args):
        for count, event in enumerate(whole(self, *args)):
            if count == 5:
                raise KeyboardInterrupt
            yield event

    with monkeypatch.context() as patch:
        patch.setattr(Points, "events", interrupted)
        assert sweep(*RATES, *SEEDS) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert {point["status"] for point in told(config).values()} == {"waiting"}
    # One point was finished before the kill, and its neighbours only begun.
    assert sweep("--grid", "algorithm.client-lr=5", "--grid", "seed=1") == 0
    kept = (config / "out" / NAMES[3] / "result.json").stat().st_mtime_ns
    assert sweep(*RATES, *SEEDS) == 0
    assert "1 finished before and kept" in capsys.readouterr().err
    assert {point["status"] for point in told(config).values()} == {"finished"}
    assert (config / "out" / NAMES[3] / "result.json").stat().st_mtime_ns == kept
    for name in NAMES:  # no line of the interrupted attempt is left
        lines = (config / "out" / name / "metrics.jsonl").read_text().splitlines()
        rounds = [json.loads(x)["round"] for x in lines if '"event": "round"' in x]
        assert rounds == [1, 2]


def test_a_failed_point_is_recorded_and_the_others_go_on(config, capsys, monkeypatch):
    def events(self, *args):
        raise RuntimeError("no room on the device")
        yield

    alone = Simulation.run

    def run(self, listen=None):
        if self.seed == 1 and self.recipe.hparams["client_lr"] == 5:
            raise FloatingPointError("this one")
        return alone(self, listen)

    with monkeypatch.context() as patch:
        patch.setattr(Points, "events", events)
        patch.setattr(Simulation, "run", run)
        assert sweep(*RATES, *SEEDS) == 1
    shown = capsys.readouterr()
    assert (
        "the common program failed (RuntimeError: no room on the device)" in shown.err
    )
    assert f"failed: {NAMES[3]}: FloatingPointError: this one" in shown.out
    points = told(config)
    assert [points[n]["status"] for n in NAMES] == ["finished"] * 3 + ["failed"]
    assert "FloatingPointError: this one (test_sweep.py:" in points[NAMES[3]]["error"]
    assert "1 (1 failed)" in (config / "out" / "table.md").read_text()
    assert sweep(*RATES, *SEEDS) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert "3 finished before and kept, 1 failed before and run again" in text
    assert "error" not in told(config)[NAMES[3]]


def test_shapes_follow_one_another_and_wild_points_are_results(config, capsys):
    status = sweep(
        "--grid", "algorithm.dim=2,4", "--grid", "algorithm.client-lr=1,1e38",
        "--grid", "algorithm.init-scale=10",
    )  # fmt: skip
    assert status == 0
    assert capsys.readouterr().err.count("2 points as one program") == 2
    wild = config / "out" / "dim=2,client_lr=1e+38,init_scale=10"
    result = json.loads((wild / "result.json").read_text())
    assert result["loss_not_finite_since_round"] >= 1
    assert told(config)[wild.name]["status"] == "finished"
    text = (config / "out" / "table.md").read_text()
    assert "1 (1 diverged)" in text
    best = next(line for line in text.splitlines() if line.startswith("| best"))
    assert "1e+38" not in best


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "nothing to sweep; expected for example --grid"),
        (["--grid", "algorithm.cleint-lr=1"], "Did you mean algorithm.client-lr"),
        (["--grid", "algorithm.client-lr=-1"], "must be finite and not negative"),
        (["--grid", "cohort.size=0"], "cohort.size must be at least 1, got 0"),
        ([*RATES, *RATES], "algorithm.client-lr is swept twice"),
        ([*RATES, "--jobs", "0"], "--jobs must be at least 1"),
        ([*RATES, "--memory", "lots"], "expected bytes such as 500M or 4G"),
        ([*RATES, "--points", "3"], "--points needs ranges"),
        (["--sample", "seed=uniform:0:9"], "--sample needs --points N"),
        ([*RATES, "--output", "small.py"], "is a file"),
        ([*RATES, "--output", "."], "and no sweep; expected an empty folder"),
        ([*RATES, "--engine", "slurm"], "invalid choice"),
        ([*RATES, "--data", "FileData"], "Pass --data.dir DIR"),
    ],
)
def test_mistakes_are_told_before_anything_runs(config, capsys, args, expected):
    assert expected in fails(capsys, *args)
    assert not (config / "out" / "sweep.json").exists()


def test_help_teaches(capsys):
    assert main(["sweep", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--grid FIELD=log:1e-3:1:7" in shown
    assert "The same command again continues" in shown
    assert main(["sweep"]) == 2


def needs(package):
    found = importlib.util.find_spec(package)
    reason = f"{package} is not installed (the extra `sweep`)"
    return pytest.mark.skipif(found is None, reason=reason)


def finished_alike(config, capsys, *engine):
    """Points that an engine ran equal those of this process."""
    assert sweep(*RATES, *SEEDS, *engine) == 0, capsys.readouterr()
    assert {point["status"] for point in told(config).values()} == {"finished"}
    assert main(["sweep", "small.py", "--output", "here", *RATES, *SEEDS]) == 0
    for name in NAMES:
        for part, values in metrics(config / "here" / name).items():
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
def test_optuna_chooses_by_validation_and_goes_on(config, capsys):
    ranges = ["--sample", "algorithm.client-lr=log:0.01:100", "--sample",
              "algorithm.model=choice:mf,ncf", "--batch", "3", *SEEDS]  # fmt: skip
    assert sweep("--optuna", "3", *ranges) == 0
    first = told(config)
    assert len(first) == 6
    assert sweep("--optuna", "5", *ranges) == 0
    points = told(config)
    assert len(points) == 10
    assert dict(list(points.items())[:6]) == first
    rates = {p["values"]["algorithm.client_lr"] for p in points.values()}
    assert len(rates) == 5
    assert np.log10(list(rates)).min() >= -2
    assert "Did you mean" not in capsys.readouterr().err
    text = fails(capsys, "--optuna", "5", *ranges, *RATES)
    assert "swept twice" in text


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is not None, reason="Ray is installed"
)
def test_without_ray_its_extra_is_named(capsys):
    assert "pip install 'fedjax-rec[sweep]'" in fails(capsys, *RATES, "--engine", "ray")


SEVERAL = (
    SMALL
    + """
    import dataclasses
    first = get_config()

    def get_config():
        other = dataclasses.replace(first.algorithm, dim=2)
        return first, dataclasses.replace(first, name="narrow", algorithm=other)

    def get_grid():
        return ("codec.name=none,bf16", "seed=0:2")
"""
)


def test_a_config_of_several_experiments_has_its_own_grid(config, capsys):
    (config / "small.py").write_text(textwrap.dedent(SEVERAL))
    assert sweep("--grid", "seed=3", "--rounds", "1") == 0
    capsys.readouterr()
    points = told(config)
    assert [point["values"] for point in points.values()] == [
        {"name": name, "codec.name": codec, "seed": 3}
        for name in ("small", "narrow")
        for codec in ("none", "bf16")
    ]
    read = [
        json.loads((config / "out" / p / "config.json").read_text()) for p in points
    ]
    assert [run["algorithm"]["dim"] for run in read] == [4, 4, 2, 2]
    assert [run["rounds"] for run in read] == [1] * 4
    assert (config / "out" / "front.png").stat().st_size > 0
    assert "narrow" in (config / "out" / "table.md").read_text()
    wrong = fails(capsys, "--grid", "name=narow")
    assert "expected one of small, narrow. Did you mean narrow?" in wrong
    assert main(["train", "small.py"]) == 2
    assert "holds 2 experiments (small, narrow)" in capsys.readouterr().err
