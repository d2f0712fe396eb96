"""Finished runs as tables, words and curves; the only module that plots."""

import importlib.util
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedjax_rec.report.comparison import (
    Row,
    columns_of,
    comparable,
    flat,
    labels_of,
    protocol_in_words,
    remarks_of,
    rows_of,
    warnings_of,
)
from fedjax_rec.runs.folder import Run

CURVES = "curves.png"


def show(console: Console, *runs: Run) -> None:
    """Prints the table of finished runs, how they were evaluated, and warnings."""
    for title, group in comparable(runs):
        columns = columns_of(group)
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        table.padding = (0, 1, 0, 0)
        table.pad_edge = False
        table.add_column("test", min_width=10)
        for heading in columns.values():
            table.add_column(heading, justify="right")
        for row in rows_of(group):
            style = "dim" if row.baseline else "bold"
            table.add_row(escape(row.label), *_cells(row, columns), style=style)
        console.print(table)
        first = group[0].result or {}
        console.print(escape(protocol_in_words(first["protocol"])), highlight=False)
    for text in warnings_of(runs):
        console.print(f"[bold red]WARNING[/] {escape(text)}", highlight=False)
    for text in remarks_of(runs):
        console.print(escape(text), highlight=False)


def markdown(*runs: Run) -> str:
    """The same as `show` prints, in Markdown."""
    names = ", ".join(dict.fromkeys(str((r.result or {}).get("name")) for r in runs))
    lines = [f"# {names}", ""]
    lines += [f"> **WARNING** {text}\n" for text in warnings_of(runs)]
    for title, group in comparable(runs):
        columns = columns_of(group)
        lines += [f"## {title}", ""] if title else []
        lines += ["| test | " + " | ".join(columns.values()) + " |"]
        lines += ["|---|" + "---:|" * len(columns)]
        for row in rows_of(group):
            cells = " | ".join(_cells(row, columns))
            lines.append(f"| {row.label.replace('|', '/')} | {cells} |")
        lines += ["", protocol_in_words((group[0].result or {})["protocol"]), ""]
    lines += [f"{text}\n" for text in remarks_of(runs)]
    if len(runs) == 1:
        lines += _details(runs[0])
    return "\n".join(lines).rstrip() + "\n"


def can_plot() -> bool:
    """Whether Matplotlib (the extra `analysis`) is there."""
    return importlib.util.find_spec("matplotlib") is not None


def plot_curves(runs: Sequence[Run], path: str | Path) -> None:
    """Draws the loss and the validation NDCG over rounds into an image file.

    Args:
        runs: finished or not.
        path: of the image.
    """
    # A Figure of its own, without pyplot, needs no display and leaves no global state.
    from matplotlib.figure import Figure

    name = next((n for n in columns_of(runs) if n.startswith("ndcg@")), "auc")
    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, quality = figure.subplots(1, 2)
    for run, label in zip(
        runs, labels_of([[r] for r in runs], seeds=True), strict=True
    ):
        rounds = [e for e in run.events if e.get("loss") is not None]
        losses.plot([e["round"] for e in rounds], [e["loss"] for e in rounds])
        points = [
            (e["round"], (e.get("val") or e.get("test") or {}).get(name))
            for e in run.events
            if e["event"] == "evaluation"
        ]
        points = [point for point in points if point[1] is not None]
        if points:
            quality.plot(*zip(*points, strict=True), label=label)
    styles = ("--", "-.", ":")
    baselines = [
        row for row in rows_of(runs) if row.baseline and name in row.metrics[0]
    ]
    for row, style in zip(baselines, styles, strict=False):
        value = statistics.fmean(metrics[name] for metrics in row.metrics)
        label = f"{row.label}, on test"
        quality.axhline(value, color="gray", linestyle=style, label=label)
    losses.set(xlabel="round", ylabel="training loss")
    quality.set(xlabel="round", ylabel=f"validation {name.upper()}")
    quality.legend(fontsize=8)
    for axes in (losses, quality):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _cells(row: Row, columns: Mapping[str, str]) -> list[str]:
    return [_cell([m.get(name) for m in row.metrics]) for name in columns]


def _cell(values: Sequence[float | None]) -> str:
    """Mean and sample standard deviation, or a dash where a value is missing."""
    known = [v for v in values if v is not None and math.isfinite(v)]
    if not known or len(known) < len(values):
        return "-"
    mean = f"{statistics.fmean(known):.4f}"
    return f"{mean} ± {statistics.stdev(known):.4f}" if len(known) > 1 else mean


def _details(run: Run) -> list[str]:
    result, versions = run.result or {}, run.versions
    data = ", ".join(f"{k} {v}" for k, v in (result.get("data") or {}).items())
    software = ", ".join(
        f"{k} {versions.get(k)}" for k in ("fedjax_rec", "jax", "python")
    )
    fields = [f"| `{n}` | {v} |" for n, v in flat(run.config).items()]
    table = ["| field | value |", "|---|---|", *fields]
    return [f"Data: {data}.", "", f"Computed by {software}.", "", *table]
