"""Commands in help texts, docs and config files are valid."""

import copy
import re
import shlex
from pathlib import Path

import pytest

from fedjax_rec import FedAvg, FedFM, PFedRec
from fedjax_rec.cli import COMMANDS, HELP, sweep, train
from fedjax_rec.cli import data as data_command
from fedjax_rec.cli.arguments import apply_flags, read_arguments
from fedjax_rec.cli.config_file import load_configs, load_plugins, named_config
from fedjax_rec.cli.config_names import shipped
from fedjax_rec.cli.data import Describe, data_of
from fedjax_rec.cli.explain import part
from fedjax_rec.cli.options import Train
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.storage.errors import UserError
from fedjax_rec.sweep import space

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
FILES += sorted(ROOT.glob("configs/*.py")) + sorted(ROOT.glob("examples/*.py"))
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in FILES}
TEXTS |= {"--help": HELP, "train --help": train.HELP, "sweep --help": sweep.HELP}
TEXTS["data --help"] = data_command.HELP


def commands():
    """Every complete command of a text, as words."""
    for name, text in TEXTS.items():
        text = re.sub(r"\\+\n\s*", " ", text)
        for line in re.findall(r"fedjax-rec ((?:train|sweep|data describe) .*)", text):
            line = re.split(r"[`|]|  #| &&|; |\.\.\. ?$", line.partition("`")[0])[0]
            words = shlex.split(line, comments=True)
            if not re.search(r"NAME|SOURCE|RUN|DIR|\.\.\.|\[", line):
                yield pytest.param(words, id=f"{name}: {' '.join(words)}")


BASES = [
    Experiment(name="x", algorithm=algorithm)
    for algorithm in (PFedRec(), FedAvg(), FedFM())
]
"""Experiments that `CONFIG` may stand for; one of them has to have the fields."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The configs, the examples, and a registry to add their kinds to."""
    for name in ("configs", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "SLOTS", copy.deepcopy(registry.SLOTS))
    monkeypatch.setattr(registry, "OWN", {})


@pytest.mark.parametrize("words", list(commands()))
def test_commands_have_valid_flags(words, folder):
    command, *args = words
    assert command in COMMANDS
    options = {"train": Train, "sweep": sweep.Sweep, "data": Describe}[command]()
    if command == "data":
        args = args[1:]
    config, args = named_config(args)
    flags, asked = read_arguments(args)
    flags = [(n, v or ["3"] if n == "profile" else v) for n, v in flags]
    load_plugins(flags)
    bases, grid = [BASES[:1]], ()
    if config.endswith(".py") or config in shipped():
        experiments, grid, _ = load_configs(config)
        bases = [experiments]
    elif config == "CONFIG":
        bases = [[base] for base in BASES]
    elif command == "data":
        bases = [[Experiment(name="x", data=data_of(config))]]
    errors = []
    for experiments in bases:
        try:
            check(flags, asked or (), options, experiments, grid)
        except UserError as error:
            errors.append(str(error))
    assert len(errors) < len(bases), errors


def check(flags, asked, options, experiments, grid):
    """Raises a UserError unless experiments have all flags, parts and swept fields."""
    applied = [apply_flags(flags, options, experiment) for experiment in experiments]
    options, experiments = applied[0][0], [experiment for _, experiment in applied]
    for word in asked:
        assert part(experiments[0], word)
    grids, samples = (getattr(options, name, ()) for name in ("grid", "sample"))
    variants = space.with_kinds(experiments, (*grid, *grids, *samples))
    for text in (*grid, *grids):
        assert space.parse_grid(variants, text).values
    for text in samples:
        assert space.parse_sample(variants, text).field


def test_there_are_commands():
    assert len(list(commands())) > 40
