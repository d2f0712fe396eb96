"""Compares finished runs.

One line per configuration, with mean and standard deviation if runs differ only by
seed, and rankers that learn nothing. Runs under different protocols or on different
data are not comparable: the differences are listed.

fedjax-rec report runs/quickstart-fedfm-synthetic-s0
fedjax-rec report runs/* --output comparison
"""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from fedjax_rec.runs.folder import CONFIG, Run, RunFolder, read_run
from fedjax_rec.storage.errors import UserError, writable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Options of `report`.

    Attributes:
        runs: run folders, or folders that hold run folders.
        output: folder for comparison.md and, with the extra `analysis`, curves.png.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path | None = None


def main(args: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Report, args=args, prog="fedjax-rec report", description=__doc__)
    from fedjax_rec.report.run import show

    runs = find_runs(options.runs)
    console = Console()
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
    show(console, *finished)
    if options.output is not None:
        _write(options.output, finished, console)
    return 0


def find_runs(paths: tuple[Path, ...]) -> list[Run]:
    """The runs in the given folders, and one level below those that hold none.

    Raises:
        UserError: no run was found.
    """
    if not paths:
        raise UserError("no run given; expected for example: fedjax-rec report runs/*")
    folders = []
    for path in paths:
        inside = sorted(config.parent for config in path.glob(f"*/{CONFIG}"))
        folders += inside if inside and not (path / CONFIG).exists() else [path]
    return [read_run(folder) for folder in dict.fromkeys(folders)]


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
