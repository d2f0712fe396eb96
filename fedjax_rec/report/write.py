"""The last files of a finished run."""

from typing import Any

from fedjax_rec.report import run as report
from fedjax_rec.runs.folder import REPORT, RESULT, RunFolder, read_run


def write_result(folder: RunFolder, result: dict[str, Any], draw: bool = True) -> None:
    """Finishes a run's folder with `result.json`, `report.md` and the curves."""
    # First, so that an error in drawing cannot lose it.
    folder.write_json(RESULT, result)
    write_report(folder, draw)


def write_report(folder: RunFolder, draw: bool = True) -> None:
    """Writes `report.md`, and if `draw` the curves, of a finished run."""
    run = read_run(folder.path)
    folder.write_text(REPORT, report.markdown(run))
    if draw and report.can_plot():
        with folder.replacing(report.CURVES) as temporary:
            report.plot_curves([run], temporary)
