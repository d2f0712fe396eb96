"""Plots of a sweep."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.experiment.fields import shown, text_of
from fedjax_rec.report.tables import panels, save
from fedjax_rec.sweep.table import Setting, spread

CURVES, FRONT = "learning_curves.png", "front.png"
MOST_LINES = 10
"""Largest number of lines that can be distinguished in one panel."""
_INTERVALS = "mean and 95 % interval over seeds"


def numeric_fields(settings: Sequence[Setting]) -> list[str]:
    """Swept fields with at least two values, all of them numbers."""
    fields = []
    for field in settings[0].values if settings else ():
        values = {setting.values[field] for setting in settings}
        if len(values) > 1 and all(type(v) in (int, float) for v in values):
            fields.append(field)
    return fields


def plot_name(field: str) -> str:
    """The file name of `plot_field`."""
    return f"{field.rpartition('.')[2]}.png"


def plot_field(
    settings: Sequence[Setting], field: str, metric: str, log: bool, path: str | Path
) -> None:
    """Draws the metric against one field, a line for each setting of the others.

    Args:
        settings: the settings of the sweep.
        field: one of `numeric_fields`.
        metric: a metric of validation and test.
        log: whether the field's axis is logarithmic.
        path: the image file.
    """
    figure, axes_of_parts = panels(2, (11, 4), sharey=True)
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        others = {f: v for f, v in setting.values.items() if f != field}
        lines.setdefault(_label(others), []).append(setting)
    parts = {"val": "validation", "test": "test"}
    for axes, (part, word) in zip(axes_of_parts, parts.items(), strict=True):
        for label, group in list(lines.items())[:MOST_LINES]:
            group = [s for s in group if metric in getattr(s, part)]
            group.sort(key=lambda s: s.values[field])
            spreads = [getattr(s, part)[metric] for s in group]
            axes.errorbar(
                [s.values[field] for s in group],
                [s.mean for s in spreads],
                yerr=[s.half or 0 for s in spreads],
                marker="o",
                capsize=3,
                label=label or None,
            )
        if log:
            axes.set_xscale("log")
        axes.set(xlabel=shown(field), ylabel=f"{word} {metric.upper()}")
    if len(lines) > 1:
        axes_of_parts[0].legend(fontsize=8, title=_left_out(len(lines)))
    figure.suptitle(_INTERVALS, fontsize=9)
    save(figure, path)


def plot_front(settings: Sequence[Setting], metric: str, path: str | Path) -> None:
    """Draws test quality against the megabytes that clients sent, a dot per setting.

    A line joins the settings that no other beats in both. Each experiment has a panel.
    """
    measured = [s for s in settings if s.sent is not None and metric in s.test]
    groups: dict[str, list[Setting]] = {}
    for setting in measured:
        groups.setdefault(setting.values.get("name", ""), []).append(setting)
    figure, row = panels(len(groups), (1 + 6 * len(groups), 4.5))
    for (name, group), axes in zip(groups.items(), row, strict=True):
        _draw_front(axes, group, metric)
        axes.set_title(name, fontsize=10)
    row[0].set_ylabel(f"test {metric.upper()}")
    figure.suptitle(_INTERVALS, fontsize=9)
    save(figure, path)


def _draw_front(axes: Any, settings: Sequence[Setting], metric: str) -> None:
    for i, setting in enumerate(settings):
        assert setting.sent is not None
        quality = setting.test[metric]
        values = {f: v for f, v in setting.values.items() if f != "name"}
        axes.errorbar(
            setting.sent.mean,
            quality.mean,
            xerr=setting.sent.half or 0,
            yerr=quality.half or 0,
            marker="o",
            capsize=3,
            color=f"C{i % 10}",
            label=_label(values) or "base",
        )
    signs = [s.sign(metric) for s in settings if s.sent]
    sign = signs[0] if signs else 1
    best = front_of(
        [(s.sent.mean, sign * s.test[metric].mean) for s in settings if s.sent]
    )
    best = [(cost, sign * quality) for cost, quality in best]
    axes.plot(*zip(*best, strict=True), color="grey", linewidth=1, zorder=0)
    axes.set_xscale("log")
    axes.set_xlabel("MB sent by all clients")
    axes.legend(fontsize=7)


def front_of(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The pairs `(cost, quality)` that no other beats in both, by cost.

    >>> front_of([(1, 0.2), (2, 0.1), (3, 0.4)])
    [(1, 0.2), (3, 0.4)]
    """
    front: list[tuple[float, float]] = []
    for pair in sorted(pairs, key=lambda p: (p[0], -p[1])):
        if not front or pair[1] > front[-1][1]:
            front.append(pair)
    return front


def plot_curves(settings: Sequence[Setting], metric: str, path: str | Path) -> None:
    """Draws loss and validation over rounds, the mean over each setting's seeds.

    Shows the settings with the best validation if there are many.
    """
    figure, (losses, quality) = panels(2, (11, 4))
    ranked = sorted(
        (s for s in settings if s.runs),
        key=lambda s: (
            s.sign(metric) * s.val[metric].mean if metric in s.val else -math.inf
        ),
        reverse=True,
    )
    for setting in ranked[:MOST_LINES]:
        label = _label(setting.values) or "base"
        if setting.diverged:  # its loss would flatten all others
            label += " (diverged)"
            losses.plot([], [])  # the next one keeps its colour in both panels
        else:
            losses.plot(*_mean_curve(setting, "round", None, "loss"))
        where = (None, "rmse_val") if metric == "rmse" else ("val", metric)
        curve = _mean_curve(setting, "evaluation", *where)
        quality.plot(*curve, marker=".", label=label)
    losses.set(xlabel="round", ylabel="training loss")
    quality.set(xlabel="round", ylabel=f"validation {metric.upper()}")
    if ranked:
        quality.legend(fontsize=8, title=_left_out(len(ranked)))
    save(figure, path)


def _mean_curve(setting: Setting, kind: str, part: str | None, name: str):
    """Rounds and means over the runs that have a value."""
    values: dict[int, list[float]] = {}
    for run in setting.runs:
        for event in run.events:
            if event["event"] == kind:
                value = (event.get(part) or {} if part else event).get(name)
                if value is not None:
                    values.setdefault(event["round"], []).append(value)
    rounds = sorted(values)
    return rounds, [spread(values[r]).mean for r in rounds]


def _label(values: dict[str, Any]) -> str:
    names = (f if f == "name" else f.rpartition(".")[2] for f in values)
    pairs = zip(names, values.values(), strict=True)
    return ", ".join(f"{shown(name)}={text_of(value)}" for name, value in pairs)


def _left_out(count: int) -> str | None:
    return f"{MOST_LINES} of {count}" if count > MOST_LINES else None
