"""What a sweep found: a row a setting, mean and interval over its seeds."""

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from fedjax_rec.experiment.fields import text_of, value_of
from fedjax_rec.report.tables import Table, say
from fedjax_rec.runs.folder import Run


class Spread(NamedTuple):
    """A mean over seeds with half the width of its 95 % interval.

    Attributes:
        mean: over the seeds.
        half: Student's t of `n - 1` degrees times the standard error; `None` for one.
    """

    mean: float
    half: float | None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if self.half is None else f" ± {self.half:.4f}")


class Setting(NamedTuple):
    """A row: runs that differ by seed alone.

    Attributes:
        values: of the swept fields but the seed.
        runs: the finished ones.
        failed: how many are not.
        val: by metric.
        test: by metric.
        diverged: runs whose loss was not finite.
        sent: megabytes that all clients sent in a run, `None` where no run told.
    """

    values: dict[str, Any]
    runs: list[Run]
    failed: int
    val: dict[str, Spread]
    test: dict[str, Spread]
    diverged: int
    sent: Spread | None = None


def spread(values: Sequence[float]) -> Spread:
    """Mean and half-width of the 95 % interval of the mean (Student's t).

    >>> print(spread([1.0, 2.0, 3.0]))  # 4.3027 / sqrt(3)
    2.0000 ± 2.4841
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(mean, None)
    from scipy.special import stdtrit

    error = statistics.stdev(values) / math.sqrt(len(values))
    return Spread(mean, float(stdtrit(len(values) - 1, 0.975)) * error)


def settings_of(
    runs: Sequence[Run], fields: Sequence[str], failed: Sequence[Mapping[str, Any]] = ()
) -> list[Setting]:
    """Rows in the order of their first runs.

    Args:
        runs: finished.
        fields: the swept ones.
        failed: configs of points without a result.
    """
    fields = [field for field in fields if field != "seed"]

    def key(config: Mapping[str, Any]) -> tuple:
        return tuple(value_of(config, field) for field in fields)

    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run.config), []).append(run)
    lost = [key(config) for config in failed]
    for values in lost:
        groups.setdefault(values, [])
    return [
        Setting(
            values=dict(zip(fields, values, strict=True)),
            runs=found,
            failed=lost.count(values),
            val=_spreads(found, "val"),
            test=_spreads(found, "test"),
            diverged=sum(
                "loss_not_finite_since_round" in (r.result or {}) for r in found
            ),
            sent=_sent(found),
        )
        for values, found in groups.items()
    ]


def selection_metric(runs: Sequence[Run]) -> str:
    """The validation metric that settings are compared by; empty without one."""
    for run in runs:
        chosen = (run.result or {})["protocol"]["selection"]
        known = ((run.result or {})["metrics"].get("val")) or {}
        if chosen in known:
            return chosen
        ranks = [name for name in known if name.startswith("ndcg@") and "/" not in name]
        if ranks:
            return "ndcg@10" if "ndcg@10" in ranks else ranks[0]
    return ""


def best_of(settings: Sequence[Setting], metric: str) -> int | None:
    """Position of the setting with the best mean validation; the test has no say.

    Only settings with as many finished seeds as any are compared, and none that
    diverged.
    """
    most = max((len(s.runs) for s in settings), default=0)
    known = [
        (s.val[metric].mean, -i)
        for i, s in enumerate(settings)
        if metric in s.val and len(s.runs) == most and not s.diverged
    ]
    return -max(known)[1] if known else None


def sent_differs(settings: Sequence[Setting]) -> bool:
    """Whether some settings send more than others, so that bytes are worth telling."""
    sent = [s.sent.mean for s in settings if s.sent is not None]
    return len(sent) > 1 and max(sent) > 1.01 * min(sent)


def columns_of(settings: Sequence[Setting], metric: str) -> list[tuple[str, str]]:
    """`(part, metric)` of the columns to read; the CSV has all."""
    known = {name for s in settings for name in s.test}
    columns = [("val", metric)] if metric else []
    if sent_differs(settings):
        columns.insert(0, ("sent", "MB"))
    wanted = [metric, "exposure@10", "hr@10", "ndcg@10", "auc", "rmse"]
    wanted = [name for name in dict.fromkeys(wanted) if name in known]
    return columns + [("test", name) for name in wanted[:4]]


def cells_of(
    setting: Setting, columns: Sequence[tuple[str, str]], best: bool
) -> list[str]:
    """A row's cells: the settings, seeds, then mean and interval of each column."""
    seeds = str(len(setting.runs))
    if setting.failed:
        seeds += f" ({setting.failed} failed)"
    if setting.diverged:
        seeds += f" ({setting.diverged} diverged)"
    values = [text_of(value) for value in setting.values.values()]
    found = [_cell(setting, part, name) for part, name in columns]
    return ["best" if best else "", *values, seeds, *found]


def _cell(setting: Setting, part: str, name: str) -> str:
    if part == "sent":
        return "-" if setting.sent is None else f"{setting.sent.mean:,.1f}"
    return str(getattr(setting, part).get(name, "-"))


def headings(settings: Sequence[Setting], columns: Sequence[tuple[str, str]]):
    """Of `cells_of`."""
    fields = [
        f.removeprefix("algorithm.") for f in (settings[0].values if settings else ())
    ]
    return ["", *fields, "seeds", *(f"{part} {name.upper()}" for part, name in columns)]


LEGEND = (
    "Best: by mean validation {metric}; its test stands beside it and had no say. ± is "
    "half the 95 % interval of the mean over seeds (Student's t)."
)


def table_of(
    settings: Sequence[Setting], metric: str, most: int | None = None
) -> Table:
    """The table to read; the best setting by validation stands out.

    Args:
        settings: the rows.
        metric: the metric that settings are compared by.
        most: largest number of columns after the settings; `None` is no limit.
    """
    columns = columns_of(settings, metric)[:most]
    marks = [i == best_of(settings, metric) for i in range(len(settings))]
    rows = zip(settings, marks, strict=True)
    return Table(
        headings=headings(settings, columns),
        rows=[cells_of(setting, columns, mark) for setting, mark in rows],
        styles=["bold" if mark else "" for mark in marks],
        label_width=0,
    )


def show(console: Console, settings: Sequence[Setting], metric: str) -> None:
    """Prints the table, with the columns that fit into 80 characters."""
    table_of(settings, metric, 3).print(console)
    say(console, [LEGEND.format(metric=metric or "(none)")])


def markdown(settings: Sequence[Setting], title: str, metric: str) -> str:
    """The table in Markdown."""
    lines = [f"# {title}", "", *table_of(settings, metric).markdown()]
    return "\n".join([*lines, "", LEGEND.format(metric=metric or "(none)"), ""])


def as_csv(settings: Sequence[Setting], metric: str) -> str:
    """Everything: `best`, fields, counts, then mean and half-width of every metric."""
    names = [
        (part, name)
        for part in ("val", "test")
        for name in dict.fromkeys(n for s in settings for n in getattr(s, part))
    ]
    best, text = best_of(settings, metric), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = list(settings[0].values) if settings else []
    heads = [f"{p}.{n}{end}" for p, n in names for end in ("", ".half95")]
    known = ["finished", "failed", "diverged", "sent_mb", "sent_mb.half95"]
    writer.writerow(["best", *fields, *known, *heads])
    for i, setting in enumerate(settings):
        counts = [len(setting.runs), setting.failed, setting.diverged]
        counts += ["" if x is None else x for x in setting.sent or ("", "")]
        found = [getattr(setting, part).get(name) for part, name in names]
        cells = [c for s in found for c in (s or ("", ""))]
        cells = ["" if c is None else c for c in cells]
        writer.writerow([int(i == best), *setting.values.values(), *counts, *cells])
    return text.getvalue()


def _sent(runs: Sequence[Run]) -> Spread | None:
    costs = [(run.result or {}).get("costs") or {} for run in runs]
    sent = [cost.get("up_bytes") for cost in costs]
    known = [float(x) / 1e6 for x in sent if x is not None]
    return spread(known) if known and len(known) == len(sent) else None


def _spreads(runs: Sequence[Run], part: str) -> dict[str, Spread]:
    metrics = [
        ((run.result or {}).get("metrics") or {}).get(part) or {} for run in runs
    ]
    names = dict.fromkeys(name for known in metrics for name in known)
    found = {}
    for name in names:
        values = [known.get(name) for known in metrics]
        if all(v is not None and math.isfinite(v) for v in values):
            found[name] = spread([float(v) for v in values])  # pyright: ignore[reportArgumentType]
    return found
