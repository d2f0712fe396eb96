"""A sweep as a table in the terminal and as plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fedjax_rec.experiment.fields import shown, text_of
from fedjax_rec.sweep.table import (
    LEGEND,
    Setting,
    best_of,
    cells_of,
    columns_of,
    headings,
    spread,
)

CURVES, FRONT = "learning_curves.png", "front.png"
MOST_LINES = 10
"""More lines than this nobody tells apart."""


def show(console: Console, settings: Sequence[Setting], metric: str) -> None:
    """Prints the table; the best setting by validation stands out."""
    best = best_of(settings, metric)
    columns = columns_of(settings, metric)[:3]  # more do not fit into 80 characters
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in headings(settings, columns):
        table.add_column(heading, justify="right" if heading else "left")
    for i, setting in enumerate(settings):
        style = "bold" if i == best else ""
        table.add_row(*cells_of(setting, columns, i == best), style=style)
    console.print(table)
    console.print(LEGEND.format(metric=metric or "(none)"), highlight=False)


def numeric_fields(settings: Sequence[Setting]) -> list[str]:
    """Swept fields with at least two values, all of them numbers."""
    found = []
    for field in settings[0].values if settings else ():
        values = {setting.values[field] for setting in settings}
        if len(values) > 1 and all(_is_number(v) for v in values):
            found.append(field)
    return found


def plot_name(field: str) -> str:
    """The file of `plot_field`."""
    return f"{field.rpartition('.')[2]}.png"


def plot_field(
    settings: Sequence[Setting], field: str, metric: str, log: bool, path: str | Path
) -> None:
    """Draws the metric against one field, a line for each setting of the others.

    Args:
        settings: the rows.
        field: of `numeric_fields`.
        metric: of validation and test.
        log: whether the field's axis is logarithmic.
        path: of the image.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    others: dict[str, list[Setting]] = {}
    for setting in settings:
        rest = {f: v for f, v in setting.values.items() if f != field}
        others.setdefault(_label(rest), []).append(setting)
    for axes, part in zip(panels, ("val", "test"), strict=True):
        for label, group in list(others.items())[:MOST_LINES]:
            group = [s for s in group if metric in getattr(s, part)]
            group.sort(key=lambda s: s.values[field])
            found = [getattr(s, part)[metric] for s in group]
            axes.errorbar(
                [s.values[field] for s in group],
                [s.mean for s in found],
                yerr=[s.half or 0 for s in found],
                marker="o",
                capsize=3,
                label=label or None,
            )
        if log:
            axes.set_xscale("log")
        words = {"val": "validation", "test": "test"}
        axes.set(xlabel=shown(field), ylabel=f"{words[part]} {metric.upper()}")
        _plain_axes(axes)
    if len(others) > 1:
        panels[0].legend(fontsize=8, title=_left_out(len(others)))
    figure.suptitle("mean and 95 % interval over seeds", fontsize=9)
    figure.savefig(path, dpi=150)


def plot_front(settings: Sequence[Setting], metric: str, path: str | Path) -> None:
    """Draws test quality against the megabytes that clients sent, a point a setting.

    A line joins the settings that no other beats in both. Of several experiments each
    has a panel.
    """
    from matplotlib.figure import Figure

    known = [s for s in settings if s.sent is not None and metric in s.test]
    names = list(dict.fromkeys(s.values.get("name", "") for s in known))
    figure = Figure(figsize=(1 + 6 * len(names), 4.5), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)[0]
    for name, axes in zip(names, panels, strict=True):
        group = [s for s in known if s.values.get("name", "") == name]
        _front(axes, group, metric)
        axes.set_title(name, fontsize=10)
    panels[0].set_ylabel(f"test {metric.upper()}")
    figure.suptitle("mean and 95 % interval over seeds", fontsize=9)
    figure.savefig(path, dpi=150)


def _front(axes: Any, settings: Sequence[Setting], metric: str) -> None:
    for i, setting in enumerate(settings):
        assert setting.sent is not None
        found = setting.test[metric]
        values = {f: v for f, v in setting.values.items() if f != "name"}
        axes.errorbar(
            setting.sent.mean,
            found.mean,
            xerr=setting.sent.half or 0,
            yerr=found.half or 0,
            marker="o",
            capsize=3,
            color=f"C{i % 10}",
            label=_label(values) or "base",
        )
    best = front_of([(s.sent.mean, s.test[metric].mean) for s in settings if s.sent])
    axes.plot(*zip(*best, strict=True), color="grey", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("MB sent by all clients")
    axes.legend(fontsize=7)
    _plain_axes(axes)


def front_of(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points `(cost, quality)` that no other beats in both, by cost.

    >>> front_of([(1, 0.2), (2, 0.1), (3, 0.4)])
    [(1, 0.2), (3, 0.4)]
    """
    front: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front


def plot_curves(settings: Sequence[Setting], metric: str, path: str | Path) -> None:
    """Draws loss and validation over rounds, the mean over each setting's seeds.

    Where there are many settings, those with the best validation.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    losses, quality = figure.subplots(1, 2)
    known = [s for s in settings if s.runs]
    ranked = sorted(
        known, key=lambda s: s.val[metric].mean if metric in s.val else 0, reverse=True
    )
    for setting in ranked[:MOST_LINES]:
        label = _label(setting.values) or "base"
        if setting.diverged:  # its loss would flatten all others
            label += " (diverged)"
            losses.plot([], [])  # the next one keeps its colour in both panels
        else:
            losses.plot(*_mean_curve(setting, "round", None, "loss"))
        quality.plot(
            *_mean_curve(setting, "evaluation", "val", metric), marker=".", label=label
        )
    losses.set(xlabel="round", ylabel="training loss")
    quality.set(xlabel="round", ylabel=f"validation {metric.upper()}")
    if ranked:
        quality.legend(fontsize=8, title=_left_out(len(ranked)))
    for axes in (losses, quality):
        _plain_axes(axes)
    figure.savefig(path, dpi=150)


def _mean_curve(setting: Setting, kind: str, part: str | None, name: str):
    """Rounds and means over the runs that tell a value there."""
    values: dict[int, list[float]] = {}
    for run in setting.runs:
        for event in run.events:
            if event["event"] == kind:
                found = (event.get(part) or {} if part else event).get(name)
                if found is not None:
                    values.setdefault(event["round"], []).append(found)
    rounds = sorted(values)
    return rounds, [spread(values[r]).mean for r in rounds]


def _short(field: str) -> str:
    end = field.rpartition(".")[2]
    return field if end == "name" else end


def _label(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{shown(_short(field))}={text_of(value)}" for field, value in values.items()
    )


def _left_out(count: int) -> str | None:
    return f"{MOST_LINES} of {count}" if count > MOST_LINES else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain_axes(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
