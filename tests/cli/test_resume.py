"""`fedjax-rec train --resume`: exact, or refused with the difference."""

import json
import os
import shutil
import signal
import textwrap

import jax
import numpy as np
import pytest

from fedjax_rec.cli import main
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.cli.progress import Progress
from fedjax_rec.cli.resume import config_hash
from fedjax_rec.experiment.build import build
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.runs.folder import read_run

CONFIG = '''
    """Six rounds."""
    from fedjax_rec import Execution, Experiment, PFedRec, SyntheticData

    def get_config():
        return Experiment(
            name="small",
            data=SyntheticData(num_users=24, num_items=40, num_interactions=300),
            algorithm=PFedRec(dim=4),
            execution=Execution(max_buckets=1),
            rounds=6,
            eval_every=2,
        )
'''
COMPARED = ("config.json", "metrics.jsonl", "result.json")


def signal_at(monkeypatch, number, at, event="round"):
    """The process gets a signal while it learns of a round."""
    heard = Progress.__call__

    def call(self, told):
        if (told["round"], told["event"]) == (at, event):
            os.kill(os.getpid(), number)
        heard(self, told)

    monkeypatch.setattr(Progress, "__call__", call)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `small.py`, an unbroken run `whole`, and one `left` at round 4."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "small.py").write_text(textwrap.dedent(CONFIG))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDJAX_REC_CACHE", str(folder / "cache"))
        assert main(["train", "small.py", "--output", "whole", "--quiet"]) == 0
        signal_at(patch, signal.SIGINT, 3)
        assert main(["train", "small.py", "--output", "left", "--quiet"]) == 130
    return folder


@pytest.fixture
def here(made, tmp_path, monkeypatch):
    """A copy of it, where the test is."""
    shutil.copytree(made, tmp_path / "here", ignore=shutil.ignore_patterns("cache"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(made / "cache"))
    return tmp_path / "here"


def arrays_of(folder):
    """The newest checkpoint's round and arrays, as bytes."""
    like = build(load_config("small.py")[0]).snapshot().arrays
    config = json.loads((folder / "config.json").read_text())
    checkpoints = Checkpoints(folder / "checkpoints", config_hash(config))
    found = checkpoints.restore(like)
    checkpoints.close()
    assert found is not None
    leaves = [np.asarray(x).tobytes() for x in jax.tree.leaves(found.snapshot.arrays)]
    return found.snapshot.progress, leaves


def assert_same_run(folder, other):
    for name in COMPARED:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    assert arrays_of(folder) == arrays_of(other)


def resumes(folder):
    return json.loads((folder / "versions.json").read_text())["resumed"]


def fails(capsys, *args):
    """The message of a command that has to fail, however it was wrapped."""
    capsys.readouterr()
    try:
        status = main(["train", *args])
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr()
    assert status == 2
    assert "Traceback" not in shown.err
    return " ".join((shown.out + shown.err).replace("│", " ").split())


def shown_by(capsys, *args):
    capsys.readouterr()
    assert main(["train", *args]) == 0
    shown = capsys.readouterr()
    return " ".join((shown.out + shown.err).split())


def test_a_stopped_run_ends_as_if_it_had_never_stopped(here, capsys):
    assert read_run(here / "left").result is None
    assert not (here / "left/result.json").exists()
    shown = shown_by(capsys, "--resume", "left")
    # Signalled in round 3, it went on to the next rest.
    done = resumes(here / "left")[0]["round"]
    assert done in (3, 4)
    assert f"resumed after round {done}" in shown
    assert "popularity" in shown
    assert_same_run(here / "left", here / "whole")
    assert read_run(here / "left").seconds["lives"] == 2
    assert "resumed 1 time" in (here / "left/report.md").read_text()


def test_the_same_experiment_has_the_same_bits(here, capsys):
    shown_by(capsys, "small.py", "--output", "again", "--checkpoint.every", "1")
    assert_same_run(here / "again", here / "whole")
    assert sorted(p.name for p in (here / "again/checkpoints").iterdir())[-2:] == [
        "5",
        "6",
    ]


def test_sigterm_leaves_a_checkpoint_and_the_way_back(here, monkeypatch, capsys):
    signal_at(monkeypatch, signal.SIGTERM, 5)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--resume", "left"])
    assert stopped.value.code == 128 + signal.SIGTERM
    shown = capsys.readouterr().err
    assert "stopped after round" in shown
    assert "fedjax-rec train --resume left" in shown
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.undo()
    monkeypatch.chdir(here)
    shown_by(capsys, "--resume", "left")
    assert len(resumes(here / "left")) == 2
    assert_same_run(here / "left", here / "whole")


def test_a_second_interrupt_stops_at_once(here, monkeypatch, capsys):
    signal_at(monkeypatch, signal.SIGINT, 5)
    signal_at(monkeypatch, signal.SIGINT, 5)
    assert main(["train", "--resume", "left"]) == 130
    shown = capsys.readouterr().err
    assert "checkpoints are intact" in shown
    assert "fedjax-rec train --resume left" in shown


def test_a_finished_run_says_so(here, capsys):
    before = {p: p.read_bytes() for p in (here / "whole").iterdir() if p.is_file()}
    shown = shown_by(capsys, "--resume", "whole")
    assert "whole is finished" in shown
    assert "popularity" in shown
    after = {p: p.read_bytes() for p in (here / "whole").iterdir() if p.is_file()}
    assert before == after


def test_more_rounds_are_those_of_a_longer_run(here, capsys):
    shown_by(capsys, "small.py", "--rounds", "8", "--output", "longer")
    shown = shown_by(capsys, "--resume", "whole", "--rounds", "8")
    assert "resumed after round 6" in shown
    assert_same_run(here / "whole", here / "longer")


def test_more_rounds_only_where_that_is_exact(here, capsys):
    config = json.loads((here / "whole/config.json").read_text())
    # Round 6 of 6, evaluated every 4: only because it was the last.
    config["eval_every"] = 4
    for done in (2, 4):
        shutil.rmtree(here / f"whole/checkpoints/{done}", ignore_errors=True)
    (here / "whole/config.json").write_text(json.dumps(config))
    text = fails(capsys, "--resume", "whole", "--rounds", "8")
    assert "round 6 was evaluated only because it was the last" in text
    assert (here / "whole/result.json").exists()
    config["eval_every"] = 7
    (here / "whole/config.json").write_text(json.dumps(config))
    text = fails(capsys, "--resume", "whole", "--rounds", "8")
    assert "evaluated only after its 6 rounds" in text


def test_without_a_checkpoint_it_starts_at_round_0(here, capsys):
    shutil.rmtree(here / "left/checkpoints")
    assert "no checkpoint: from round 0" in shown_by(capsys, "--resume", "left")
    assert_same_run(here / "left", here / "whole")


def test_a_broken_checkpoint_costs_time_and_nothing_else(here, capsys):
    newest = max((here / "left/checkpoints").iterdir(), key=lambda p: int(p.name))
    (newest / "seal.json").unlink()
    shown = shown_by(capsys, "--resume", "left")
    assert f"the checkpoint of round {newest.name} is skipped: it is not" in shown
    assert_same_run(here / "left", here / "whole")


def test_metrics_that_end_before_a_checkpoint_pass_it_over(here, capsys):
    """As after a loss of power that took the end of the file."""
    lines = (here / "left/metrics.jsonl").read_bytes().splitlines(keepends=True)
    (here / "left/metrics.jsonl").write_bytes(b"".join(lines[:3]))
    assert "resumed after round 2" in shown_by(capsys, "--resume", "left")
    assert_same_run(here / "left", here / "whole")


def edit_versions(folder, **values):
    path = folder / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_changed_is_refused_with_the_difference(here, capsys):
    left = here / "left"
    before = {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    for args, expected in (
        (["--seed", "3"], "seed: 0 there, 3 now"),
        (["--algorithm.client-lr", "0.7"], "algorithm.client_lr: 0.1 there, 0.7 now"),
        (["--rounds", "5"], "rounds: 6 there, 5 now"),
        (["--rounds", "8", "--seed", "3"], "seed: 0 there, 3 now"),
        (["--algorithm", "FedMF"], "algorithm.type: PFedRec there, FedMF now"),
        (["--output", "x"], "leave --output and --overwrite out"),
        (["--checkpoint.keep", "0"], "checkpoint.keep must be at least 1"),
        (["--checkpoint.every", "-1"], "checkpoint.every must not be negative"),
    ):
        assert expected in fails(capsys, "--resume", "left", *args)
        assert expected in fails(capsys, "small.py", "--resume", "left", *args)
    assert before == {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    versions = json.loads((left / "versions.json").read_text())
    edit_versions(left, prepared={**versions["prepared"], "train": "0123456789abcdef"})
    text = fails(capsys, "--resume", "left")
    assert "began with other data" in text
    assert "data.train: 0123456789abcdef there" in text


def test_other_software_is_refused_unless_accepted(here, capsys):
    edit_versions(here / "left", jaxlib="0.0.1", devices=["TPU v9"])
    text = fails(capsys, "--resume", "left")
    assert "jaxlib: 0.0.1 there" in text
    assert "devices: ['TPU v9'] there, ['cpu'] now" in text
    shown_by(capsys, "--resume", "left", "--accept-versions")
    changed = resumes(here / "left")[0]["changed"]
    assert changed["devices"] == ["cpu"]
    assert changed.keys() == {"jaxlib", "devices"}


def test_what_cannot_be_resumed(here, capsys):
    assert "expected the folder of a run" in fails(capsys, "--resume")
    assert "expected the folder of a run" in fails(capsys, "--resume", "--quiet")
    assert "nowhere is no folder" in fails(capsys, "--resume", "nowhere")
    config = json.loads((here / "left/config.json").read_text())
    (here / "left/config.json").write_text(json.dumps({**config, "few_shot": {}}))
    assert "left holds a transfer" in fails(capsys, "--resume", "left")


def test_train_again_tells_of_resume(here, capsys):
    text = fails(capsys, "small.py", "--output", "left")
    assert "unfinished run of the same config" in text
    assert "fedjax-rec train --resume left" in text
    shown_by(capsys, "small.py", "--output", "left", "--overwrite")
    assert_same_run(here / "left", here / "whole")


def test_a_folder_that_takes_no_checkpoints(here, capsys):
    shutil.rmtree(here / "left/checkpoints")
    (here / "left/checkpoints").write_text("")
    assert "checkpoints: cannot be written" in fails(capsys, "--resume", "left")


def test_checkpoints_can_be_left_out(here, capsys):
    shown_by(capsys, "small.py", "--output", "none", "--checkpoint.every", "0")
    assert not (here / "none/checkpoints").exists()
    for name in COMPARED:
        assert (here / "none" / name).read_bytes() == (
            here / "whole" / name
        ).read_bytes()
