"""Runs many settings and seeds, as one program if possible.

usage: fedjax-rec sweep CONFIG --grid FIELD=VALUES ... [--output DIR] [--FIELD VALUE]

Runs the experiment of CONFIG at many settings. Those that differ by seed and by scalars
(learning rates, server momentum, ...) are one compiled program, side by side; others
follow one after another. Each point has a run folder of its own in DIR.

  --grid FIELD=a,b,c            these values; several --grid are combined
  --grid FIELD=0:5              0, 1, 2, 3, 4
  --grid FIELD=log:1e-3:1:7     7 values with equal ratios; linear:0:1:5 in equal steps
  --grid codec=none,sign,top_k+qsgd     kinds of a part; a+b is kind a, then kind b
  --sample FIELD=log:1e-3:1     drawn at random, with --points N; also uniform:0:1 and
                                choice:a,b; each sample meets every point of the grid
  --optuna N                    N settings of the --sample ranges, chosen by TPE against
                                validation; --grid seed=0:3 gives each three seeds

  --track tensorboard,wandb     send the events of each point to trackers, too (extra
                                `tracking`)

  fedjax-rec sweep configs/sweep_pfedrec.py --grid algorithm.client-lr=0.01,0.1,1 \\
      --grid seed=0:5
  fedjax-rec sweep configs/fedavg_synthetic.py --points 20 \\
      --sample algorithm.client-optimizer.lr=log:0.01:10 --sample seed=uniform:0:999
  fedjax-rec sweep configs/fedavg_synthetic.py --optuna 24 \\
      --sample algorithm.client-optimizer.lr=log:0.1:100 --grid seed=0:3

A config may have several experiments with distinct names, and a default grid
(configs/front_ml100k.py); --grid replaces the values of the fields it names.

The same command again continues: finished points stay, stopped ones go on from their
checkpoint, failed ones run again. Another grid into the same --output adds its points.

DIR (by default runs/sweep-NAME) has:
  sweep.json           the points, and the status of each
  FIELD=VALUE,.../     a run folder per point, as `train` writes it, without curves
                       and without parameters: train a point for those
  table.csv, table.md  a line per setting: mean and 95 % interval over seeds
  FIELD.png            the metric against each field; learning_curves.png
  front.png            the metric against bytes sent, if settings differ in them

The best setting is the one with the best validation. `fedjax-rec sweep CONFIG --help`
lists all options and fields, and `--help PART` explains one part.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from fedjax_rec.cli import config_file, explain
from fedjax_rec.cli.arguments import apply_flags, read_arguments, usage
from fedjax_rec.cli.config_names import listing
from fedjax_rec.storage.errors import UserError

HELP = __doc__ or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Options of `sweep`.

    Attributes:
        grid: FIELD=a,b,c, FIELD=0:5, FIELD=log:LOW:HIGH:COUNT or linear:...
        sample: FIELD=log:LOW:HIGH, FIELD=uniform:LOW:HIGH or FIELD=choice:a,b.
        points: number of samples.
        sample_seed: seed of the samples, and of Optuna's choices.
        optuna: number of settings that Optuna chooses.
        batch: settings that Optuna chooses at once, to run side by side.
        output: folder of the sweep; by default runs/sweep-NAME.
        engine: run points in this process, or as tasks of a Ray cluster (RAY_ADDRESS).
        jobs: processes at a time; with Ray: tasks, by default one per CPU.
        memory: largest memory of points side by side, such as 4G; by default half of
            the free memory.
        track: trackers that receive the events: tensorboard, wandb.
        plugin: Python files with further kinds of parts (docs/extending.md).
        quiet: no progress; only the table at the end.
    """

    grid: tuple[str, ...] = ()
    sample: tuple[str, ...] = ()
    points: int = 0
    sample_seed: int = 0
    optuna: int = 0
    batch: int = 8
    output: Path | None = None
    engine: Literal["local", "ray"] = "local"
    jobs: int = 1
    memory: str = ""
    track: tuple[str, ...] = ()
    plugin: tuple[str, ...] = ()
    quiet: bool = False

    def __post_init__(self) -> None:
        least = {"points": 0, "optuna": 0, "sample_seed": 0, "jobs": 1, "batch": 1}
        for name, bound in least.items():
            if (value := getattr(self, name)) < bound:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be at least {bound}, got {value}")
        if self.optuna and self.points:
            raise UserError(
                "--points draws at random, --optuna chooses: expected one of them"
            )


def main(args: list[str]) -> int:
    """Runs the command."""
    path, others = config_file.named_config(args)
    if not path:
        return usage(HELP + listing(), args)
    config = config_file.load_configs(path)
    flags, words = read_arguments(others)
    config_file.load_plugins(flags)
    if any(name.replace("_", "-") == "start-from" for name, _ in flags):
        raise UserError(
            "--start-from is an option of train: the points of a sweep start anew. "
            "Train them one after another, each into a folder of its own"
        )
    options, bases = Sweep(), []
    for experiment in config.experiments:
        options, base = apply_flags(flags, Sweep(), experiment)
        if len(config.experiments) > 1 and base.name != experiment.name:
            raise UserError(f"{path} has several experiments: leave out --name")
        bases.append(base)
    if words is not None:
        title = f"usage: fedjax-rec sweep {path} --grid FIELD=VALUES [--FIELD VALUE]"
        print(explain.asked(words, options, bases[0], title, config.doc), end="")
        return 0
    for base in bases:
        config_file.check_data(base.data)
    from fedjax_rec.sweep.runner import sweep

    name = bases[0].name if len(bases) == 1 else Path(path).stem
    try:
        return sweep(options, bases, config.grid, name)
    except UserError as error:
        raise UserError(config_file.in_flags(error)) from error
