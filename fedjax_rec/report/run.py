"""Finished runs as tables, sentences and curves."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from fedjax_rec.report.comparison import Row, columns_of, comparable, labels_of, rows_of
from fedjax_rec.report.differences import spread
from fedjax_rec.report.remarks import remarks_of, warnings_of
from fedjax_rec.report.tables import Table, can_plot, fields_of, panels, save, say
from fedjax_rec.report.words import protocol_in_words
from fedjax_rec.runs.folder import REPORT, RESULT, Run, RunFolder, read_run

CURVES = "curves.png"


def show(console: Console, *runs: Run) -> None:
    """Prints the tables of finished runs, their protocols, warnings and remarks."""
    for table, protocol in _tables(runs):
        table.print(console)
        say(console, [protocol])
    say(console, warnings_of(runs), "[bold red]WARNING[/] ")
    say(console, remarks_of(runs))


def markdown(*runs: Run) -> str:
    """The same as `show` prints, in Markdown."""
    names = ", ".join(dict.fromkeys(str((r.result or {}).get("name")) for r in runs))
    lines = [f"# {names}", ""]
    lines += [f"> **WARNING** {text}\n" for text in warnings_of(runs)]
    for table, protocol in _tables(runs):
        lines += [f"## {table.title}", ""] if table.title else []
        lines += [*table.markdown(), "", protocol, ""]
    lines += [f"{text}\n" for text in remarks_of(runs)]
    if len(runs) == 1:
        lines += _details(runs[0])
    return "\n".join(lines).rstrip() + "\n"


def plot_curves(runs: Sequence[Run], path: str | Path) -> None:
    """Draws the loss and the validation NDCG over rounds into an image file.

    Args:
        runs: finished or not.
        path: the image file.
    """
    name = next((n for n in columns_of(runs) if n.startswith("ndcg@")), "auc")
    figure, (losses, quality) = panels(2, (11, 4))
    labels = labels_of([[run] for run in runs], seeds=True)
    for run, label in zip(runs, labels, strict=True):
        rounds = [e for e in run.events if e.get("loss") is not None]
        losses.plot([e["round"] for e in rounds], [e["loss"] for e in rounds])
        values = [
            (event["round"], (event.get("val") or event.get("test") or {}).get(name))
            for event in run.events
            if event["event"] == "evaluation"
        ]
        values = [pair for pair in values if pair[1] is not None]
        if values:
            quality.plot(*zip(*values, strict=True), label=label)
    rows = [row for row in rows_of(runs) if row.baseline and name in row.metrics[0]]
    for row, style in zip(rows, ("--", "-.", ":"), strict=False):
        value = statistics.fmean(metrics[name] for metrics in row.metrics)
        label = f"{row.label}, on test"
        quality.axhline(value, color="gray", linestyle=style, label=label)
    losses.set(xlabel="round", ylabel="training loss")
    quality.set(xlabel="round", ylabel=f"validation {name.upper()}")
    quality.legend(fontsize=8)
    save(figure, path)


def write_result(folder: RunFolder, result: dict[str, Any], draw: bool = True) -> None:
    """Finishes a run's folder with `result.json`, `report.md` and the curves."""
    # First, so that an error in drawing cannot lose it.
    folder.write_json(RESULT, result)
    write_report(folder, draw)


def write_report(folder: RunFolder, draw: bool = True) -> None:
    """Writes `report.md`, and if `draw` the curves, of a finished run."""
    run = read_run(folder.path)
    folder.write_text(REPORT, markdown(run))
    if draw and can_plot():
        with folder.replacing(CURVES) as temporary:
            plot_curves([run], temporary)


def _tables(runs: Sequence[Run]) -> Iterator[tuple[Table, str]]:
    """A table for each group of comparable runs, with its protocol in words."""
    for title, group in comparable(runs):
        columns, rows = columns_of(group), rows_of(group)
        table = Table(
            headings=["test", *columns.values()],
            rows=[[row.label, *_cells(row, columns)] for row in rows],
            styles=["dim" if row.baseline else "bold" for row in rows],
            title=title,
        )
        yield table, protocol_in_words(group[0].part("protocol"))


def _cells(row: Row, columns: Mapping[str, str]) -> list[str]:
    return [_cell([m.get(name) for m in row.metrics]) for name in columns]


def _cell(values: Sequence[float | None]) -> str:
    """Mean and half its 95 % interval, or a dash if a value is missing."""
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite or len(finite) < len(values):
        return "-"
    return str(spread(finite))


def _details(run: Run) -> list[str]:
    facts = (item for item in run.part("data").items() if item[0] != "untimed")
    data = ", ".join(f"{name} {value}" for name, value in facts)
    names = ("fedjax_rec", "jax", "python")
    software = ", ".join(f"{name} {run.versions.get(name)}" for name in names)
    texts = [f"Data: {data}.", "", f"Computed by {software}.", ""]
    return texts + fields_of(run.config)
