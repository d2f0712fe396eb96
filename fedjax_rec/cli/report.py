"""Compares finished runs.

usage: fedjax-rec report RUN [RUN ...] [--output FOLDER]
       fedjax-rec report --paired RUN RUN [RUN ...] [--output FOLDER]

One line per configuration, with mean and half the 95 % interval if runs differ only by
seed, and rankers that learn nothing. Runs under different protocols or on different
data are not comparable: the differences are listed. A RUN is a run's folder, or a
folder that holds some. FOLDER gets comparison.md and, with the extra `analysis`,
curves.png.

With --paired, every configuration is compared with that of the first RUN, user by user
and seed by seed: difference, 95 % interval, p-value and its correction by Holm over the
table. Runs have to rank the same candidates for the same users, under the same seeds.
FOLDER gets paired.md, paired.csv and paired.json.

  fedjax-rec report runs/quickstart-fedfm-synthetic-s0
  fedjax-rec report runs/* --output comparison
  fedjax-rec report --paired runs/a-s0 runs/b-s0
"""

import dataclasses
from pathlib import Path

from rich.console import Console

from fedjax_rec.cli.arguments import read_arguments, read_options, usage
from fedjax_rec.runs.folder import CONFIG, Run, RunFolder, read_run
from fedjax_rec.storage.errors import UserError, writable

HELP = __doc__ or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Options of `report`.

    Attributes:
        output: folder for comparison.md and, with the extra `analysis`, curves.png; or
            for paired.md, paired.csv and paired.json.
        paired: compare configurations in pairs with that of the first run.
    """

    output: Path | None = None
    paired: bool = False


def main(args: list[str]) -> int:
    """Runs the command."""
    first = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    flags, asked = read_arguments(args[first:])
    if asked is not None:
        return usage(HELP, args)
    # Runs may also follow a flag, after its one value if it takes one.
    own = {name: 0 if name == "paired" else 1 for name, _ in flags}
    paths = [*args[:first], *(p for name, values in flags for p in values[own[name] :])]
    flags = [(name, values[: own[name]]) for name, values in flags]
    options = read_options(flags, Report())
    runs, others = find_runs(tuple(map(Path, paths)))
    from fedjax_rec.report.run import show

    console = Console()
    if others:
        count = f"{others} file{'s' if others > 1 else ''}"
        console.print(f"left out: {count} among the folders", highlight=False)
    finished = [run for run in runs if run.result is not None]
    for run in runs:
        if run.result is None:
            rounds = sum(event["event"] == "round" for event in run.events)
            text = f"left out: {run.path} is not finished ({rounds} rounds)"
            console.print(text, highlight=False, soft_wrap=True)
    if not finished:
        raise UserError(
            "no finished run among these; expected a folder with result.json"
        )
    if options.paired:
        _pair(finished, options.output, console)
        return 0
    show(console, *finished)
    if options.output is not None:
        _write(options.output, finished, console)
    return 0


def find_runs(paths: tuple[Path, ...]) -> tuple[list[Run], int]:
    """The runs in the given folders, and one level below those that hold none.

    Files among folders are left out: `runs/sweep/*` also names a sweep's tables.

    Returns:
        The runs, and the number of files.

    Raises:
        UserError: no run was found.
    """
    if not paths:
        raise UserError("no run given; expected for example: fedjax-rec report runs/*")
    dirs = [path for path in paths if not path.is_file()]
    others = len(paths) - len(dirs) if dirs else 0
    folders = []
    for path in dirs or paths:
        inside = sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
        folders += inside if inside and not (path / CONFIG).exists() else [path]
    return [read_run(folder) for folder in dict.fromkeys(folders)], others


def _pair(runs: list[Run], output: Path | None, console: Console) -> None:
    from fedjax_rec.report import paired

    comparison = paired.compare(runs)
    paired.show(console, comparison)
    if output is None:
        return
    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(output)
    folder.write_text("paired.md", paired.markdown(comparison))
    folder.write_text("paired.csv", paired.as_csv(comparison))
    folder.write_json("paired.json", paired.as_json(comparison))
    console.print(f"written: {output}", highlight=False, soft_wrap=True)


def _write(output: Path, runs: list[Run], console: Console) -> None:
    from fedjax_rec.report.run import CURVES, markdown, plot_curves
    from fedjax_rec.report.tables import can_plot

    with writable(output):
        output.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(output)
    folder.write_text("comparison.md", markdown(*runs))
    if can_plot():
        with folder.replacing(CURVES) as temporary:
            plot_curves(runs, temporary)
    else:
        console.print("no curves: pip install 'fedjax-rec[analysis]'", markup=False)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)
