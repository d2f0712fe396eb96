"""Tables of a sweep: a row per setting, mean and interval over its seeds."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console

from fedjax_rec.evaluation.selection import sign_of
from fedjax_rec.experiment.fields import text_of, value_of
from fedjax_rec.report.comparison import further_metrics
from fedjax_rec.report.differences import Spread, spread
from fedjax_rec.report.tables import Table, say
from fedjax_rec.runs.folder import Run

LEGEND = (
    "Best: {setting}by mean validation {metric}; test metrics do not choose it. ± is "
    "half the 95 % interval of the mean over seeds (Student's t)."
)

MIXED = (
    "No best setting: rounds are selected by different validation metrics ({metrics}), "
    "which cannot be compared. Set protocol.selection to one that all settings have. ± "
    "is half the 95 % interval of the mean over seeds (Student's t)."
)


class Setting(NamedTuple):
    """A row: runs that differ by seed only.

    Attributes:
        values: values of the swept fields, without the seed.
        runs: finished runs.
        failed: number of failed runs.
        val: validation metrics, by name.
        test: test metrics, by name.
        diverged: number of runs with a loss that was not finite.
        sent: megabytes that all clients sent in a run, or `None` if unknown.
    """

    values: dict[str, Any]
    runs: list[Run]
    failed: int
    val: dict[str, Spread]
    test: dict[str, Spread]
    diverged: int
    sent: Spread | None = None

    def sign(self, metric: str) -> int:
        """1 if higher values of a metric are better, else -1."""
        lower = [
            n for run in self.runs for n in further_metrics(run, "lower_is_better")
        ]
        return sign_of(metric, lower)


def settings_of(
    runs: Sequence[Run], fields: Sequence[str], failed: Sequence[Mapping[str, Any]] = ()
) -> list[Setting]:
    """Rows in the order of their first runs.

    Args:
        runs: finished runs.
        fields: swept fields.
        failed: configs of points without a result.
    """
    fields = [field for field in fields if field != "seed"]

    def key(config: Mapping[str, Any]) -> tuple:
        return tuple(value_of(config, field) for field in fields)

    lost = [key(config) for config in failed]
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(key(run.config), []).append(run)
    for values in lost:
        groups.setdefault(values, [])
    return [
        Setting(
            values=dict(zip(fields, values, strict=True)),
            runs=group,
            failed=lost.count(values),
            val=_spreads(group, "val"),
            test=_spreads(group, "test"),
            diverged=sum(bool(r.part("diverged_in_round")) for r in group),
            sent=_sent(group),
        )
        for values, group in groups.items()
    ]


def _spreads(runs: Sequence[Run], part: str) -> dict[str, Spread]:
    """The metrics that are finite in all runs."""
    metrics = [run.part("metrics", part) for run in runs]
    columns: dict[str, list[Any]] = {
        name: [values.get(name) for values in metrics]
        for name in dict.fromkeys(name for values in metrics for name in values)
    }
    return {
        name: spread([float(x) for x in column])
        for name, column in columns.items()
        if all(x is not None and math.isfinite(x) for x in column)
    }


def _sent(runs: Sequence[Run]) -> Spread | None:
    sent: list[Any] = [run.part("costs").get("up_bytes") for run in runs]
    if not sent or None in sent:
        return None
    return spread([float(x) / 1e6 for x in sent])


def metrics_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """The validation metrics that select rounds of these runs, sorted.

    Runs that select by none, such as the last round, take the metric of the others, or
    if all are such, NDCG. A run that lacks the metric of the others adds its own.
    """
    chosen = {_selecting(run) for run in runs} - {""}
    others = [run.part("metrics", "val") for run in runs if not _selecting(run)]
    lacking = [m for m in others if not chosen or not chosen <= {*m}]
    ranks = {_ndcg(metrics) for metrics in lacking}
    return tuple(sorted((chosen | ranks) - {""}))


def _selecting(run: Run) -> str:
    """The validation metric that selected a round; empty if none did."""
    metric = run.part("protocol")["selection"]
    return metric if metric in run.part("metrics", "val") else ""


def _ndcg(metrics: Mapping[str, Any]) -> str:
    """NDCG at 10, or at the first other cut-off; empty without any."""
    ranks = [n for n in metrics if n.startswith("ndcg@") and "/" not in n]
    return "ndcg@10" if "ndcg@10" in ranks else next(iter(ranks), "")


def selection_metric(runs: Sequence[Run]) -> str:
    """The validation metric that settings are compared by.

    Empty if there is none, or if runs are selected by different ones (`metrics_of`).
    """
    metrics = metrics_of(runs)
    return metrics[0] if len(metrics) == 1 else ""


def legend(settings: Sequence[Setting], metric: str) -> str:
    """The sentence below a table."""
    different = metrics_of([run for setting in settings for run in setting.runs])
    if not metric and len(different) > 1:
        return MIXED.format(metrics=", ".join(different))
    best, setting = best_of(settings, metric), ""
    if best is not None:
        values = settings[best].values.items()
        pairs = ", ".join(f"{field}={text_of(value)}" for field, value in values)
        # A table wider than the terminal is cut, and its mark may be out of sight.
        setting = f"{pairs} ({settings[best].val[metric]}), "
    return LEGEND.format(setting=setting, metric=metric or "(none)")


def best_of(settings: Sequence[Setting], metric: str) -> int | None:
    """Position of the setting with the best mean validation.

    Only settings that have the largest number of finished seeds and did not diverge are
    compared. Test metrics play no part.
    """
    most = max((len(s.runs) for s in settings), default=0)
    values = [
        (s.sign(metric) * s.val[metric].mean, -i)
        for i, s in enumerate(settings)
        if metric in s.val and len(s.runs) == most and not s.diverged
    ]
    return -max(values)[1] if values else None


def sent_differs(settings: Sequence[Setting]) -> bool:
    """Whether some settings send more than others, so that bytes belong in tables."""
    sent = [s.sent.mean for s in settings if s.sent is not None]
    return len(sent) > 1 and max(sent) > 1.01 * min(sent)


def columns_of(settings: Sequence[Setting], metric: str) -> list[tuple[str, str]]:
    """`(part, metric)` of the columns to read; the CSV has all."""
    present = {name for s in settings for name in s.test}
    columns = [("sent", "MB")] if sent_differs(settings) else []
    columns += [("val", metric)] if metric else []
    runs = [run for setting in settings for run in setting.runs]
    further = [name for run in runs for name in further_metrics(run, "names")]
    usual = ("exposure@10", "hr@10", "ndcg@10", "auc", "rmse")
    wanted = dict.fromkeys([metric, *further, *usual])
    return columns + [("test", name) for name in wanted if name in present][:4]


def cells_of(
    setting: Setting, columns: Sequence[tuple[str, str]], best: bool
) -> list[str]:
    """A row's cells: the settings, seeds, then mean and interval of each column."""
    seeds = str(len(setting.runs))
    if setting.failed:
        seeds += f" ({setting.failed} failed)"
    if setting.diverged:
        seeds += f" ({setting.diverged} diverged)"
    cells = ["best" if best else "", *map(text_of, setting.values.values()), seeds]
    for part, name in columns:
        if part != "sent":
            cells.append(str(getattr(setting, part).get(name, "-")))
        else:
            cells.append("-" if setting.sent is None else f"{setting.sent.mean:,.1f}")
    return cells


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
    best = best_of(settings, metric)
    fields = [f.removeprefix("algorithm.") for s in settings[:1] for f in s.values]
    names = [f"{part} {name.upper()}" for part, name in columns]
    return Table(
        headings=["", *fields, "seeds", *names],
        rows=[cells_of(s, columns, i == best) for i, s in enumerate(settings)],
        styles=["bold" if i == best else "" for i in range(len(settings))],
        label_width=0,
    )


def show(console: Console, settings: Sequence[Setting], metric: str) -> None:
    """Prints the table, with the columns that fit into 80 characters."""
    table_of(settings, metric, 3).print(console)
    say(console, [legend(settings, metric)])


def markdown(settings: Sequence[Setting], title: str, metric: str) -> str:
    """The table in Markdown."""
    lines = [f"# {title}", "", *table_of(settings, metric).markdown()]
    return "\n".join([*lines, "", legend(settings, metric), ""])


def as_csv(settings: Sequence[Setting], metric: str) -> str:
    """All columns: `best`, fields, counts, mean and half-width of every metric."""
    names = [
        (part, name)
        for part in ("val", "test")
        for name in dict.fromkeys(n for s in settings for n in getattr(s, part))
    ]
    best, text = best_of(settings, metric), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fields = [field for s in settings[:1] for field in s.values]
    counts = ["finished", "failed", "diverged"]
    columns = ["sent_mb", *(f"{part}.{name}" for part, name in names)]
    heads = [column + end for column in columns for end in ("", ".half95")]
    writer.writerow(["best", *fields, *counts, *heads])
    for i, setting in enumerate(settings):
        counts = [len(setting.runs), setting.failed, setting.diverged]
        spreads = [getattr(setting, part).get(name) for part, name in names]
        cells = [x for pair in (setting.sent, *spreads) for x in pair or ("", "")]
        cells = ["" if x is None else x for x in cells]
        writer.writerow([int(i == best), *setting.values.values(), *counts, *cells])
    return text.getvalue()
