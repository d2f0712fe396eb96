"""The command itself: help, unknown commands, and how fast errors appear."""

import subprocess
import sys
from pathlib import Path

import pytest

from fedjax_rec.cli import COMMANDS, main
from fedjax_rec.data.splits import settings as splits
from fedjax_rec.storage.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], "usage: fedjax-rec COMMAND"),
        (["trian"], "Did you mean: fedjax-rec train"),
        (["configs/x.py"], "Did you mean: fedjax-rec train configs/x.py"),
        (["quickstart"], "Did you mean: fedjax-rec train quickstart"),
        (["xyzzy"], f"unknown command 'xyzzy'; expected one of {', '.join(COMMANDS)}"),
        (["train"], "usage: fedjax-rec train CONFIG"),
        (["train"], "the name of one of these: availability_ml100k, colr_ml100k,"),
        (["train", "quikstart"], "no config quikstart. Did you mean quickstart?"),
        (["data", "describe", "quikstart"], "Did you mean quickstart?"),
        (["train", "--rounds", "3"], "expected a config, such as quickstart or"),
        (["sweep"], "usage: fedjax-rec sweep CONFIG"),
        (["sweep", "--grid", "seed=0:3"], "expected a config, such as"),
        (["data"], "usage: fedjax-rec data prepare"),
        (["data", "look"], "expected prepare or describe"),
        (["data", "prepare", "movielens-10k"], "Did you mean movielens-100k?"),
        (["data", "prepare", "movielens-100k"], "Pass --dir DIR"),
        (["data", "describe", "movielens-1m"], "Pass --data.dir DIR"),
        (["data", "describe", "synthetic", "--plot", "no/x.png"], "is no folder no"),
        (["report"], "no run given"),
    ],
)
def test_a_wrong_call_says_what_was_expected(folder, fails, args, expected):
    assert expected in fails(*args)


@pytest.mark.parametrize(
    "args",
    [["--help"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_shows_examples(capsys, args):
    assert main(args) == 0
    # The usage, and an example at least.
    assert capsys.readouterr().out.count("fedjax-rec ") >= 2


def test_failures_of_the_package_keep_their_traceback(monkeypatch, capsys):
    def fault(args):
        raise args[0]

    monkeypatch.setattr("fedjax_rec.cli.train.main", fault)
    with pytest.raises(ZeroDivisionError):
        main(["train", ZeroDivisionError("a fault")])  # pyright: ignore[reportArgumentType]
    mistake = ["train", UserError("a mistake")]
    assert main(mistake) == 2  # pyright: ignore[reportArgumentType]
    assert capsys.readouterr().err == "fedjax-rec: error: a mistake\n"
    monkeypatch.setenv("FEDJAX_REC_DEBUG", "1")
    assert main(mistake) == 2  # pyright: ignore[reportArgumentType]
    assert "Traceback" in capsys.readouterr().err
    assert main(["train", KeyboardInterrupt()]) == 130  # pyright: ignore[reportArgumentType]


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert done.stdout.startswith("fedjax-rec ")


FAST = """
import sys
from fedjax_rec.cli import main

for args, status in {calls}:
    assert main(args) == status, args
    heavy = {{"jax", "optax", "flax", "orbax"}} & {{*sys.modules}}
    assert not heavy, (args, heavy)
"""


@pytest.mark.skipif(
    "TEMPORARY" in (splits.__doc__ or ""), reason="the settings of data import JAX"
)
def test_errors_and_help_appear_before_jax_is_imported(write):
    """Its import takes longer than everything else until a message."""
    config = write()
    wrong = [
        ["train", config, "--algorithm.cleint-lr", "0.3"],
        ["train", config, "--rounds", "many"],
        ["train", config, "--rounds", "0"],
        ["train", config, "--algorithm", "fedncff"],
        ["train", config, "--codec.name", "int8"],
        ["train", config, "--cohort.size", "3"],
        ["train", config, "--aggregation.share", "3"],
        ["train", config, "--data", "files"],
        ["train", config, "--data", "files", "--data.dir", "nowhere"],
        ["train", "missing.py"],
        ["train", "--resume", "nowhere"],
        ["sweep", config, "--optuna", "-1"],
        ["sweep", config, "--rate", "1"],
        ["sweep", "missing.py"],
        ["data", "prepare", "movielens-10k"],
        ["data", "prepare", "movielens-100k"],
        ["data", "describe", config, "--partition.alpha", "1"],
    ]
    right = [["train", config, "--help"], ["train", config, "--help", "codec"]]
    right += [["train", "--help"], ["sweep", config, "--help"], ["--help"]]
    calls = [(args, 2) for args in wrong] + [(args, 0) for args in right]
    done = subprocess.run(
        [sys.executable, "-c", FAST.format(calls=calls)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.count("fedjax-rec: error: ") == len(wrong)
