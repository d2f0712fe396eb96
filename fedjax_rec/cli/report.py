"""`fedjax-rec report RUN...`: several runs beside one another."""

import dataclasses
from pathlib import Path

import tyro
from rich.console import Console

from fedjax_rec.runs.folder import (
    CONFIG,
    Run,
    RunFolder,
    read_run,
)
from fedjax_rec.storage.errors import FileError, UserError

DOC = """\
Compares finished runs: a line a configuration, with mean and standard deviation where
runs differ by seed alone, beside rankers that learn nothing. Runs under different
protocols or on different data are not comparable: the differences are listed.

fedjax-rec report runs/quickstart-fedfm-synthetic-s0
fedjax-rec report runs/* --output comparison
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What `report` takes.

    Attributes:
        runs: run folders, or folders that hold run folders.
        output: folder for comparison.md and, with the extra `analysis`, curves.png.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    output: Path | None = None


def main(args: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Report, args=args, prog="fedjax-rec report", description=DOC)
    from fedjax_rec.report import run as report

    runs = find_runs(options.runs)
    console = Console()
    finished = [run for run in runs if run.result is not None]
    for run in runs:
        if run.result is None:
            rounds = sum(event["event"] == "round" for event in run.events)
            console.print(
                f"left out: {run.path} is not finished ({rounds} rounds)",
                highlight=False,
                soft_wrap=True,
            )
    if not finished:
        raise UserError(
            "no finished run among these; expected a folder with result.json"
        )
    report.show(console, *finished)
    if options.output is not None:
        _write(options.output, finished, console)
    return 0


def find_runs(paths: tuple[Path, ...]) -> list[Run]:
    """The runs in the folders given, and one level below those that hold none.

    Raises:
        UserError: there is none.
    """
    if not paths:
        raise UserError("no run given; expected for example: fedjax-rec report runs/*")
    folders = []
    for path in paths:
        inside = sorted(found.parent for found in path.glob(f"*/{CONFIG}"))
        folders += inside if inside and not (path / CONFIG).exists() else [path]
    try:
        return [read_run(folder) for folder in dict.fromkeys(folders)]
    except FileError as error:
        raise UserError(str(error)) from error


def _write(output: Path, runs: list[Run], console: Console) -> None:
    from fedjax_rec.report import run as report

    try:
        output.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(output)
        folder.write_text("comparison.md", report.markdown(*runs))
        if report.can_plot():
            with folder.replacing(report.CURVES) as temporary:
                report.plot_curves(runs, temporary)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from error
    if not report.can_plot():
        console.print("no curves: pip install 'fedjax-rec[analysis]'", markup=False)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)
