"""`train --profile` and `--track`: no result of a run depends on them."""

import json
import types

import jax
import pytest

from fedjax_rec.cli import main, training
from fedjax_rec.cli import profile as profiling
from fedjax_rec.cli.progress import Progress, Waiting
from fedjax_rec.runs import tracking
from fedjax_rec.runs.writer import RunFolder

CONFIG = '''
"""Six rounds."""
from fedjax_rec import Execution, Experiment, FedMF, SyntheticData

def get_config():
    return Experiment(
        name="small",
        data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
        algorithm=FedMF(dim=4, feedback="explicit", client_lr=0.01),
        execution=Execution(max_buckets=1),
        rounds=6,
        eval_every=2,
    )
'''


class Deaf:
    """A tracker that hears two events and then fails."""

    def __init__(self):
        self.events = 0

    def log(self, event):
        self.events += 1
        if self.events > 2:
            raise ConnectionError("gone")

    def close(self, finished):
        raise AssertionError("it has failed before")


@pytest.fixture(scope="module")
def made(tmp_path_factory, again):
    """A folder with `small.py` and a run `plain` of it."""
    folder = tmp_path_factory.mktemp("profile")
    (folder / "small.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDJAX_REC_CACHE", str(folder / "cache"))
        patch.setattr(training, "build", again)
        assert main(["train", "small.py", "--output", "plain", "--quiet"]) == 0
    return folder


@pytest.fixture
def here(made, monkeypatch):
    """The working folder."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(made / "cache"))
    return made


def test_a_profile_changes_nothing_and_shows_the_slowest_stages(here, capsys):
    before = jax.config.values["jax_compilation_cache_include_metadata_in_key"]
    assert main(["train", "small.py", "--profile", "2", "--output", "seen"]) == 0
    for name in ("metrics.jsonl", "result.json", "config.json"):
        assert (here / "seen" / name).read_bytes() == (
            here / "plain" / name
        ).read_bytes()
    assert jax.config.values["jax_compilation_cache_include_metadata_in_key"] == before
    profile = json.loads((here / "seen/profile.json").read_text())
    assert (profile["first_round"], profile["last_round"]) == (3, 4)
    assert (profile["rounds"], profile["evaluations"]) == (2, 1)
    assert profile["stages"]
    assert 0 < profile["busy"] <= 1
    names = {part["name"] for part in profile["parts"]}
    stages = {"sampling", "local training", "aggregation", "server update"}
    assert stages | {"gathering clients", "evaluation"} <= names
    assert profile["while"].keys() == {"rounds", "evaluation"}
    trace = here / "seen" / profile["trace"]
    assert trace.stat().st_size
    assert list(trace.parent.glob("*.trace.json.gz"))
    output = capsys.readouterr().err
    assert "profile of rounds 3 to 4 and 1 evaluation:" in output
    assert f"busy {profile['busy']:.1%} of the time" in output
    for part in profile["parts"][:5]:
        assert part["name"] in output
    assert "ui.perfetto.dev" in output
    assert str(trace.parent.relative_to(here)) in output


def test_a_population_on_the_host_shows_how_long_devices_waited(here, capsys):
    args = ["--store.location", "host", "--output", "hosted"]
    assert main(["train", "small.py", *args]) == 0
    output = capsys.readouterr().err
    assert "waiting " in output
    assert "The devices waited " in output
    lines = (here / "hosted/timings.jsonl").read_text().splitlines()
    waits = [line for line in map(json.loads, lines) if line["event"] == "waiting"]
    assert [line["round"] for line in waits] == [2, 4, 6]
    assert "waiting" not in (here / "hosted/metrics.jsonl").read_text()
    assert "waiting" not in (here / "plain/timings.jsonl").read_text()


def test_a_tracker_that_fails_does_not_end_the_run(here, capsys, monkeypatch, again):
    deaf = Deaf()
    monkeypatch.setattr(training, "build", again)

    def start(kinds, folder, config, warn, history=()):
        return tracking.Guard({"deaf": deaf}, warn)

    monkeypatch.setattr(tracking, "start", start)
    assert main(["train", "small.py", "--output", "heard", "--quiet"]) == 0
    assert deaf.events == 3
    assert (here / "heard/metrics.jsonl").read_bytes() == (
        here / "plain/metrics.jsonl"
    ).read_bytes()
    output = capsys.readouterr().err
    assert output.count("deaf failed (ConnectionError: gone)") == 1


@pytest.mark.parametrize("command", ["train", "sweep"])
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--track", "mlflow"], "--track mlflow: expected tensorboard or wandb"),
        (["--track", "wandb"], "--track wandb needs wandb: pip install"),
    ],
)
def test_trackers_are_checked_before_anything_is_done(
    here, capsys, monkeypatch, command, args, expected
):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    grid = ["--grid", "seed=0:2"] if command == "sweep" else []
    assert main([command, "small.py", *grid, *args, "--output", "none"]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (here / "none" / "config.json").exists()
    assert not (here / "none" / "sweep.json").exists()


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--profile", "-1"], "--profile -1: expected a number of rounds, from 1"),
        (["--profile", "--rounds", "1"], "it needs 2 rounds; 1 of 1 are left"),
    ],
)
def test_a_profile_of_nothing_is_refused(here, capsys, args, expected):
    assert main(["train", "small.py", *args, "--output", "none"]) == 2
    assert expected in " ".join(capsys.readouterr().err.split())
    assert not (here / "none").exists()


@pytest.mark.parametrize(
    ("args", "rounds"), [(["--profile", "7"], 7), (["--profile"], 3), ([], 0)]
)
def test_a_number_is_not_needed(here, monkeypatch, args, rounds):
    options = []
    monkeypatch.setattr(training, "train", lambda _, given: options.append(given))
    assert main(["train", *args, "small.py", "--seed", "1"]) == 0
    assert options[0].profile == rounds


SUMMARY = {
    "first_round": 2,
    "last_round": 4,
    "evaluations": 0,
    "seconds": 0.5,
    "devices": 1,
    "busy": None,
    "trace": "profile/x.xplane.pb",
}


def test_words_name_the_limits_of_a_backend(tmp_path):
    output = profiling.in_words(SUMMARY, tmp_path, warm=False)
    assert "names no operation" in output
    assert "compiling it may be part" in output
    part = {
        "name": "add.1",
        "fraction": 0.25,
        "seconds_a_round": 0.0125,
        "operations": {"add": 1.0},
    }
    busy = {"busy": 0.5, "between_operations": 0.125, "stages": False}
    summary = {**SUMMARY, **busy, "while": {}, "parts": [part] * 7}
    output = profiling.in_words(summary, tmp_path)
    assert "busy 50.0% of the time" in output
    assert "parts are operations of XLA" in output
    assert output.count("25.0%     12.50 ms a round: add 100%") == 5


def test_waiting_is_a_share_of_the_rounds_after_the_first(tmp_path):
    population = types.SimpleNamespace(still=False, waited=1.0)
    simulation = types.SimpleNamespace(population=population)
    folder = RunFolder(tmp_path)
    waiting = Waiting(simulation, folder)  # pyright: ignore[reportArgumentType]
    assert str(waiting) == ""
    waiting({"event": "round", "round": 1, "seconds": 30.0})  # compiles
    for number in (2, 3):
        population.waited += 0.25
        waiting({"event": "round", "round": number, "seconds": 2.5})
    assert str(waiting) == "waiting 10 %"
    waiting({"event": "evaluation", "round": 3, "seconds": 1.0})
    population.waited += 0.5
    waiting({"event": "round", "round": 4, "seconds": 5.0})
    waiting({"event": "evaluation", "round": 4, "seconds": 1.0})
    folder.close()
    assert waiting.seconds == 1.0
    assert "1.00 s for the host" in waiting.sentence()
    assert "10 % of the time" in waiting.sentence()
    lines = (tmp_path / "timings.jsonl").read_text().splitlines()
    assert [json.loads(line)["seconds"] for line in lines] == [0.5, 0.5]


def test_a_population_on_the_devices_never_waits(tmp_path, capsys):
    population = types.SimpleNamespace(still=True, waited=0.0)
    simulation = types.SimpleNamespace(population=population)
    waiting = Waiting(simulation, RunFolder(tmp_path))  # pyright: ignore[reportArgumentType]
    progress = Progress(2, 1, True, 0, waiting)
    for event in ("round", "evaluation"):
        fields = {"event": event, "round": 1, "seconds": 1.0, "loss": 0.5}
        waiting(fields)
        progress(fields)
    progress.close()
    assert waiting.sentence() == ""
    assert "waiting" not in capsys.readouterr().err
    assert not (tmp_path / "timings.jsonl").exists()
