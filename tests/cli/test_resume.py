"""`fedjax-rec train --resume`: exact, or refused with the difference."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from fedjax_rec.cli import main, training
from fedjax_rec.cli.config_file import load_config
from fedjax_rec.cli.progress import Progress
from fedjax_rec.runs.checkpoint import Checkpoints
from fedjax_rec.runs.folder import read_run
from fedjax_rec.runs.resume import config_hash

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
    """The process gets a signal while it shows a round."""
    show = Progress.__call__

    def call(self, shown):
        if (shown["round"], shown["event"]) == (at, event):
            os.kill(os.getpid(), number)
        show(self, shown)

    monkeypatch.setattr(Progress, "__call__", call)


@pytest.fixture(scope="module")
def made(tmp_path_factory, again):
    """A folder with `small.py`, an unbroken run `whole`, and one `left` at round 4."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "small.py").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FEDJAX_REC_CACHE", str(folder / "cache"))
        patch.setattr(training, "build", again)
        assert main(["train", "small.py", "--output", "whole", "--quiet"]) == 0
        signal_at(patch, signal.SIGINT, 3)
        assert main(["train", "small.py", "--output", "left", "--quiet"]) == 130
    return folder


@pytest.fixture
def copied(made, tmp_path, monkeypatch, again):
    """A copy of this folder, and the working folder of the test."""
    ignored = shutil.ignore_patterns("cache", "curves.png")
    shutil.copytree(made, tmp_path / "copied", ignore=ignored)
    monkeypatch.chdir(tmp_path / "copied")
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(made / "cache"))
    monkeypatch.setattr(training, "build", again)
    return tmp_path / "copied"


@pytest.fixture
def arrays_of(again):
    """The newest checkpoint's round and arrays, as bytes."""

    def arrays_of(folder):
        like = again(load_config("small.py")[0]).snapshot().arrays
        config = json.loads((folder / "config.json").read_text())
        checkpoints = Checkpoints(folder / "checkpoints", config_hash(config))
        restored = checkpoints.restore(like)
        checkpoints.close()
        assert restored.snapshot is not None
        leaves = jax.tree.leaves(restored.snapshot.arrays)
        return restored.snapshot.progress, [np.asarray(x).tobytes() for x in leaves]

    return arrays_of


@pytest.fixture
def assert_same_run(arrays_of):
    def assert_same_run(folder, other):
        for name in COMPARED:
            assert (folder / name).read_bytes() == (other / name).read_bytes(), name
        assert arrays_of(folder) == arrays_of(other)

    return assert_same_run


def resumes(folder):
    return json.loads((folder / "versions.json").read_text())["resumed"]


def test_a_stopped_run_ends_as_if_it_had_never_stopped(copied, shows, assert_same_run):
    assert read_run(copied / "left").result is None
    assert not (copied / "left/result.json").exists()
    output = shows("train", "--resume", "left")
    # Signalled in round 3, it went on to the next rest.
    done = resumes(copied / "left")[0]["round"]
    assert done in (3, 4)
    assert f"resumed after round {done}" in output
    assert "popularity" in output
    assert_same_run(copied / "left", copied / "whole")
    assert read_run(copied / "left").seconds["lives"] == 2
    assert "resumed 1 time" in (copied / "left/report.md").read_text()


def test_the_same_experiment_has_the_same_bits(copied, shows, assert_same_run):
    flags = ["--output", "again", "--checkpoint.every", "1"]
    shows("train", "small.py", *flags)
    assert_same_run(copied / "again", copied / "whole")
    names = sorted(p.name for p in (copied / "again/checkpoints").iterdir())
    assert names[-2:] == ["5", "6"]


def test_sigterm_leaves_a_checkpoint_and_the_way_back(
    copied, monkeypatch, capsys, shows, again, assert_same_run
):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        signal_at(patch, signal.SIGTERM, 5)
        with pytest.raises(SystemExit) as stopped:
            main(["train", "--resume", "left"])
    assert stopped.value.code == 128 + signal.SIGTERM
    output = capsys.readouterr().err
    assert "stopped after round" in output
    assert "fedjax-rec train --resume left" in output
    assert signal.getsignal(signal.SIGTERM) is before
    shows("train", "--resume", "left")
    assert len(resumes(copied / "left")) == 2
    assert_same_run(copied / "left", copied / "whole")


def test_a_second_interrupt_stops_at_once(copied, monkeypatch, capsys):
    signal_at(monkeypatch, signal.SIGINT, 5)
    signal_at(monkeypatch, signal.SIGINT, 5)
    assert main(["train", "--resume", "left"]) == 130
    output = capsys.readouterr().err
    assert "checkpoints are intact" in output
    assert "fedjax-rec train --resume left" in output


def test_a_finished_run_says_so(copied, shows):
    whole = copied / "whole"
    before = {p: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    output = shows("train", "--resume", "whole")
    assert "whole is finished" in output
    assert "popularity" in output
    after = {p: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    assert before == after


def test_more_rounds_are_those_of_a_longer_run(copied, shows, assert_same_run):
    shows("train", "small.py", "--rounds", "8", "--output", "longer")
    output = shows("train", "--resume", "whole", "--rounds", "8")
    assert "resumed after round 6" in output
    assert_same_run(copied / "whole", copied / "longer")


def test_more_rounds_only_if_that_is_exact(copied, fails):
    config = json.loads((copied / "whole/config.json").read_text())
    # Round 6 of 6, evaluated every 4: only because it was the last.
    config["eval_every"] = 4
    for done in (2, 4):
        shutil.rmtree(copied / f"whole/checkpoints/{done}", ignore_errors=True)
    (copied / "whole/config.json").write_text(json.dumps(config))
    text = fails("train", "--resume", "whole", "--rounds", "8")
    assert "round 6 was evaluated only because it was the last" in text
    assert (copied / "whole/result.json").exists()
    config["eval_every"] = 7
    (copied / "whole/config.json").write_text(json.dumps(config))
    text = fails("train", "--resume", "whole", "--rounds", "8")
    assert "evaluated only after its 6 rounds" in text


def test_a_run_that_diverged_has_no_more_rounds(copied, fails):
    path = copied / "whole/result.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps({**result, "diverged_in_round": 3}))
    text = fails("train", "--resume", "whole", "--rounds", "8")
    assert "diverged in round 3 and cannot go on" in text


def test_without_a_checkpoint_it_starts_at_round_0(copied, shows, assert_same_run):
    shutil.rmtree(copied / "left/checkpoints")
    assert "no checkpoint: from round 0" in shows("train", "--resume", "left")
    assert_same_run(copied / "left", copied / "whole")


def test_a_broken_checkpoint_costs_only_time_if_the_user_agrees(
    copied, shows, fails, assert_same_run
):
    folder = copied / "left/checkpoints"
    newest = max(folder.iterdir(), key=lambda p: int(p.name))
    (newest / "seal.json").unlink()
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    metrics = (copied / "left/metrics.jsonl").read_bytes()
    shown = fails("train", "--resume", "left")
    assert "is damaged: it is not complete" in shown
    assert "intact" not in shown
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert (copied / "left/metrics.jsonl").read_bytes() == metrics
    output = shows("train", "--resume", "left", "--skip-damaged")
    assert f"the checkpoint of round {newest.name} is skipped: it is damaged" in output
    kept = folder / "set-aside" / newest.name
    names = {p.relative_to(newest) for p in before if p.is_relative_to(newest)}
    assert {p.relative_to(kept) for p in kept.rglob("*") if p.is_file()} == names
    shutil.rmtree(folder / "set-aside")
    assert_same_run(copied / "left", copied / "whole")


def test_metrics_that_end_before_a_checkpoint_skip_it(copied, shows, assert_same_run):
    """As after a loss of power that took the end of the file."""
    lines = (copied / "left/metrics.jsonl").read_bytes().splitlines(keepends=True)
    (copied / "left/metrics.jsonl").write_bytes(b"".join(lines[:3]))
    assert "resumed after round 2" in shows("train", "--resume", "left")
    assert_same_run(copied / "left", copied / "whole")


def edit_versions(folder, **values):
    path = folder / "versions.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_changes_are_refused_with_the_difference(copied, fails):
    left = copied / "left"
    before = {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    for args, expected in (
        (["--seed", "3"], "seed: 0 there, 3 now"),
        (["--algorithm.client-lr", "0.7"], "algorithm.client_lr: 0.1 there, 0.7 now"),
        (["--rounds", "5"], "rounds: 6 there, 5 now"),
        (["--rounds", "8", "--seed", "3"], "seed: 0 there, 3 now"),
        (["--algorithm", "fedmf"], "algorithm.type: PFedRec there, FedMF now"),
        (["--wrapper", "ifca"], "wrapper: None there"),
        (["--output", "x"], "leave out --output and --overwrite"),
        (["--checkpoint.keep", "0"], "checkpoint.keep must be at least 1"),
        (["--checkpoint.every", "-1"], "checkpoint.every must not be negative"),
    ):
        assert expected in fails("train", "--resume", "left", *args)
        assert expected in fails("train", "small.py", "--resume", "left", *args)
    assert before == {p: p.read_bytes() for p in left.rglob("*") if p.is_file()}
    versions = json.loads((left / "versions.json").read_text())
    edit_versions(left, prepared={**versions["prepared"], "train": "0123456789abcdef"})
    text = fails("train", "--resume", "left")
    assert "began with other data" in text
    assert "data.train: 0123456789abcdef there" in text


def test_other_software_is_refused_unless_accepted(copied, fails, shows):
    prepared = json.loads((copied / "left/versions.json").read_text())["prepared"]
    chunks, elsewhere = prepared["chunks"], {**prepared, "chunks": [999]}
    edit_versions(copied / "left", prepared=elsewhere)
    text = fails("train", "--resume", "left")
    assert f"chunks: [999] there, {chunks} now" in text
    assert "--accept-versions" in text
    edit_versions(copied / "left", jaxlib="0.0.1", devices=["TPU v9"])
    text = fails("train", "--resume", "left")
    assert "jaxlib: 0.0.1 there" in text
    assert "devices: ['TPU v9'] there, ['cpu'] now" in text
    shows("train", "--resume", "left", "--accept-versions")
    changed = resumes(copied / "left")[0]["changed"]
    assert changed["devices"] == ["cpu"]
    assert changed["chunks"] == chunks
    assert changed.keys() == {"jaxlib", "devices", "chunks"}


def test_folders_without_a_run_to_resume(copied, fails):
    assert "expected the folder of a run" in fails("train", "--resume")
    assert "expected the folder of a run" in fails("train", "--resume", "--quiet")
    assert "nowhere is no folder" in fails("train", "--resume", "nowhere")
    config = json.loads((copied / "left/config.json").read_text())
    (copied / "left/config.json").write_text(json.dumps({**config, "few_shot": {}}))
    assert "left holds a transfer" in fails("train", "--resume", "left")


def test_the_same_command_again_mentions_resume(copied, fails, shows, assert_same_run):
    text = fails("train", "small.py", "--output", "left")
    assert "unfinished run of the same config" in text
    assert "fedjax-rec train --resume left" in text
    shows("train", "small.py", "--output", "left", "--overwrite")
    assert_same_run(copied / "left", copied / "whole")


def test_a_folder_that_takes_no_checkpoints(copied, fails):
    shutil.rmtree(copied / "left/checkpoints")
    (copied / "left/checkpoints").write_text("")
    text = fails("train", "--resume", "left")
    assert "checkpoints: cannot be written" in text


def test_checkpoints_can_be_left_out(copied, shows):
    shows("train", "small.py", "--output", "bare", "--checkpoint.every", "0")
    assert not (copied / "bare/checkpoints").exists()
    for name in COMPARED:
        assert (copied / "bare" / name).read_bytes() == (
            copied / "whole" / name
        ).read_bytes()
