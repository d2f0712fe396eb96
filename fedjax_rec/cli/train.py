"""Trains an experiment into a folder of results.

usage: fedjax-rec train CONFIG [--output DIR] [--overwrite] [--quiet] [--FIELD VALUE]
                        [--track tensorboard,wandb] [--profile [ROUNDS]]
       fedjax-rec train --resume RUN [--rounds MORE] [--accept-versions] [--quiet]

Runs the experiment that CONFIG describes: trains it round by round, evaluates it, and
compares it with rankers without a model.

CONFIG is a Python file with a function get_config() that returns a
fedjax_rec.Experiment, or the name of a config of the package; its docstring says what
to expect. Every field can be changed:

  fedjax-rec train quickstart --rounds 50
  fedjax-rec train configs/pfedrec_ml100k.py --algorithm.client-lr 0.3 --seed 1
  fedjax-rec train configs/quickstart.py --algorithm fedncf --cohort uniform
  fedjax-rec train configs/fedmf_ml100k.py --data.dir ~/ml-100k --output runs/mine
  fedjax-rec train configs/fedmf_ml100k.py --aggregation krum --aggregation.share 0.2
  fedjax-rec train quickstart --plugin examples/own_rule.py --aggregation smallest

`fedjax-rec train CONFIG --help` lists all fields with their values, and `fedjax-rec
train CONFIG --help aggregation` explains one part with all its kinds.

A run that was stopped or killed goes on from its last checkpoint, and ends with the
same bits as if it had never stopped:

  fedjax-rec train --resume runs/mine
  fedjax-rec train --resume runs/mine --rounds 200     # more rounds than before
  fedjax-rec train CONFIG --checkpoint.every 50        # by default at each evaluation

Training can go on from the parameters of another run, on other data too: items and
users are matched by their ids, and the misses are counted.

  fedjax-rec train CONFIG --start-from runs/mine

Trackers receive the events of a run (extra `tracking`), and a profile shows where the
time goes; neither changes a result:

  fedjax-rec train CONFIG --track tensorboard          # tensorboard --logdir RUN
  WANDB_MODE=offline fedjax-rec train CONFIG --track wandb
  fedjax-rec train CONFIG --profile                    # of 3 rounds; --profile 10

The folder (by default runs/NAME-ALGORITHM-DATA-sSEED) then has:
  config.json     every field of the run
  versions.json   software, device and data; when the run was resumed
  metrics.jsonl   a line per round and per evaluation, written as they happen
  timings.jsonl   the seconds they took
  checkpoints/    a folder per checkpoint: the last two, and the selected round's
  model/          parameters of the selected round, see fedjax-rec export --help
  result.json     metrics, baselines, protocol; only once the run is finished
  report.md       the same as text
  curves.png      with the extra `analysis`
  tensorboard/, wandb/      with --track
  profile/, profile.json    with --profile
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import TYPE_CHECKING

from fedjax_rec.cli import explain
from fedjax_rec.cli.arguments import apply_flags, read_arguments, usage
from fedjax_rec.cli.config_file import (
    check_data,
    load_config,
    load_plugins,
    named_config,
)
from fedjax_rec.cli.config_names import listing
from fedjax_rec.cli.options import Train
from fedjax_rec.experiment.own_module import loaded_modules
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.storage.errors import UserError

if TYPE_CHECKING:
    from fedjax_rec.runs.folder import Run

PROFILED = "3"
"""Number of rounds for `--profile` without a number."""

HELP = __doc__ or ""


def main(args: list[str]) -> int:
    """Runs the command."""
    path, others = named_config(args)
    flags, words = read_arguments(others)
    flags = [(n, v or [PROFILED] if n == "profile" else v) for n, v in flags]
    load_plugins(flags)
    folder = next((values for name, values in flags if name == "resume"), None)
    run = None
    if folder is not None and len(folder) != 1:
        raise UserError("--resume: expected the folder of a run")
    if folder:
        if path:  # for its classes; config.json has all values
            load_config(path)
        modules = loaded_modules()
        path = f"{path or ''} --resume {folder[0]}".strip()
        run, experiment = _stored(Path(folder[0]), modules)
        doc = f"Continues {folder[0]}."
    elif path:
        experiment, doc = load_config(path)
    elif words:
        path, experiment, doc = "CONFIG", Experiment(name="experiment"), ""
    else:
        return usage(HELP + listing(), args)
    options, experiment = apply_flags(flags, Train(), experiment)
    if words is not None:
        title = f"usage: fedjax-rec train {path} [--FIELD VALUE ...]"
        print(explain.asked(words, options, experiment, title, doc), end="")
        return 0
    from fedjax_rec.experiment.stored import located

    check_data(located(experiment, run).data)
    from fedjax_rec.cli.training import train

    train(experiment, options)
    return 0


def _stored(folder: Path, modules: list[types.ModuleType]) -> tuple[Run, Experiment]:
    from fedjax_rec.cli.resume import read
    from fedjax_rec.experiment.stored import stored_experiment

    run = read(folder)
    files = run.versions.get("own_files", ())
    return run, stored_experiment(run.config, str(folder), modules, files)
