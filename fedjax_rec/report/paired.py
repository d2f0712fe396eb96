"""Finished runs compared in pairs, user by user and seed by seed."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from fedjax_rec.evaluation import per_user
from fedjax_rec.evaluation.per_user import PerUser
from fedjax_rec.evaluation.protocol import main_cutoff
from fedjax_rec.report.comparison import (
    further_metrics,
    labels_of,
    protocol_of,
    same_but_seed,
)
from fedjax_rec.report.differences import Difference, difference, holm
from fedjax_rec.report.remarks import diverged_advice
from fedjax_rec.report.tables import Table, say
from fedjax_rec.runs.folder import Run
from fedjax_rec.runs.writer import USERS
from fedjax_rec.storage.errors import UserError

LEGEND = (
    "Difference: the other system minus A, averaged over users and seeds; ± is half "
    "its 95 % interval. {variance} p: two-sided t-test of no difference; Holm: "
    "corrected for all {tests} tests of this table."
)
_OF_ONE_SEED = (
    "Every system has one seed, so the interval is over users only (paired t): it does "
    "not cover another training."
)
_OF_SEEDS = (
    "The same {users:,} users return under each of {seeds} seeds, so the variance is "
    "clustered by user and by seed."
)


class Paired(NamedTuple):
    """A row of the table.

    Attributes:
        system: letter of the system that is compared with A.
        metric: name of the metric.
        first: mean of A.
        other: mean of the system.
        difference: its difference from A.
        holm: p-value corrected for all rows.
    """

    system: str
    metric: str
    first: float
    other: float
    difference: Difference
    holm: float


class Comparison(NamedTuple):
    """All rows, with the systems by letter.

    Attributes:
        systems: letter to label.
        seeds: seeds of each system.
        users: number of users.
        rows: a row for each system and metric.
    """

    systems: dict[str, str]
    seeds: list[int]
    users: int
    rows: list[Paired]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compares every system with that of the first run.

    Runs that differ only by seed are one system.

    Raises:
        UserError: the runs cannot be paired.
    """
    groups = same_but_seed(runs)
    if len(groups) < 2:
        raise UserError(
            "--paired compares systems: expected runs of at least two configurations "
            "that differ in more than the seed"
        )
    _check_converged(runs)
    seeds = _check_seeds(groups)
    _check_ranked(runs)
    systems = {chr(ord("A") + i): label for i, label in enumerate(labels_of(groups))}
    users = [[_users_of(run) for run in group] for group in groups]
    names = metrics_of_pairs(runs, users)
    rows = []
    for letter, group in list(zip(systems, users, strict=True))[1:]:
        for name in names:
            first, other = (
                np.stack([seed.metrics[name] for seed in part]).astype(np.float64)
                for part in (users[0], group)
            )
            gap = difference(other - first)
            means = float(first.mean()), float(other.mean())
            rows.append(Paired(letter, name, *means, gap, math.nan))
    corrected = holm([row.difference.p for row in rows])
    rows = [row._replace(holm=p) for row, p in zip(rows, corrected, strict=True)]
    return Comparison(systems, seeds, len(users[0][0].user), rows)


def metrics_of_pairs(
    runs: Sequence[Run], users: Sequence[Sequence[PerUser]]
) -> list[str]:
    """Names of the metrics that are compared."""
    cutoffs = protocol_of(runs[0]).get("cutoffs") or [10]
    k = main_cutoff(cutoffs)
    names = [f"hr@{k}", f"ndcg@{k}", f"mrr@{k}", "auc"]
    names += further_metrics(runs[0], "names")
    present = users[0][0].metrics
    return [name for name in names if name in present]


def _check_converged(runs: Sequence[Run]) -> None:
    """Raises if a run diverged: its users were scored some rounds before that."""
    for run in runs:
        if since := run.part().get("diverged_in_round"):
            raise UserError(
                f"{run.path} diverged in round {since}, so its metrics are those of an "
                "interrupted training: --paired compares complete runs. Leave it out, "
                f"or train it again: {diverged_advice(since)}"
            )


def _check_seeds(groups: list[list[Run]]) -> list[int]:
    """The common seeds; sorts each group by them."""
    for group in groups:
        group.sort(key=lambda run: run.config["seed"])
    seeds = [[run.config["seed"] for run in group] for group in groups]
    if any(one != seeds[0] for one in seeds) or len(set(seeds[0])) < len(seeds[0]):
        listed = "; ".join(
            f"{group[0].path} has {', '.join(map(str, one))}"
            for group, one in zip(groups, seeds, strict=True)
        )
        raise UserError(
            f"--paired pairs runs of the same seed, each once per system: {listed}. "
            "Train the missing seeds, or leave runs out"
        )
    return seeds[0]


def _check_ranked(runs: Sequence[Run]) -> None:
    """Raises unless all runs ranked the same candidates for the same users."""
    first = runs[0]
    for run in runs:
        if not run.part("ranked"):
            raise UserError(
                f"{run.path} records no digest of the ranked items: it was written by "
                "an older version. Train it again"
            )
        if run.part("ranked") != first.part("ranked"):
            raise UserError(
                f"{first.path} and {run.path} cannot be paired: their test users, test "
                "items or candidates differ. Train both with the same data, split and "
                "protocol.candidates"
            )
        for field in ("ties", "cutoffs", "metric"):
            before, now = protocol_of(first).get(field), protocol_of(run).get(field)
            if before != now:
                raise UserError(
                    f"{first.path} and {run.path} cannot be paired: protocol.{field} "
                    f"is {before} and {now}"
                )


def _users_of(run: Run) -> PerUser:
    path = run.path / USERS
    try:
        users = per_user.read(path)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); expected the metrics of each test user, "
            "written by `fedjax-rec train`. Train the run again"
        ) from error
    selected = run.part().get("selected")
    if users.round != selected:
        raise UserError(
            f"{path} holds round {users.round}, but round {selected} was selected: it "
            "belongs to another run. Train the run again"
        )
    return users


def table_of(comparison: Comparison) -> Table:
    """The table to read."""
    rows = []
    for row in comparison.rows:
        gap = row.difference
        rows.append([
            f"{row.system} - A, {row.metric}", f"{row.first:.4f}", f"{row.other:.4f}",
            f"{gap.mean:+.4f} ± {gap.half:.4f}", f"{gap.p:.2g}", f"{row.holm:.2g}",
        ])  # fmt: skip
    headings = ["pair, metric", "A", "other", "difference", "p", "Holm"]
    styles = ["bold" if row.holm < 0.05 else "" for row in comparison.rows]
    return Table(headings=headings, rows=rows, styles=styles)


def remarks(comparison: Comparison) -> list[str]:
    """The systems, and what the columns mean."""
    seeds, users = len(comparison.seeds), comparison.users
    variance = _OF_SEEDS.format(users=users, seeds=seeds)
    if seeds == 1:
        variance = _OF_ONE_SEED
    legend = LEGEND.format(variance=variance, tests=len(comparison.rows))
    named = [f"{letter}: {label}" for letter, label in comparison.systems.items()]
    return [*named, legend]


def show(console: Console, comparison: Comparison) -> None:
    """Prints the table and its remarks."""
    table_of(comparison).print(console)
    say(console, remarks(comparison))


def markdown(comparison: Comparison) -> str:
    """The same as `show` prints, in Markdown."""
    lines = ["# Paired comparison", "", *table_of(comparison).markdown(), ""]
    return "\n".join([*lines, *(f"{text}\n" for text in remarks(comparison))])


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values of the comparison."""
    return {
        "systems": comparison.systems,
        "seeds": comparison.seeds,
        "users": comparison.users,
        "rows": [_plain(row) for row in comparison.rows],
    }


def as_csv(comparison: Comparison) -> str:
    """One line for each system and metric."""
    text = io.StringIO()
    systems = comparison.systems
    rows = [
        {
            "baseline": systems["A"], "system": systems[row.system],
            "metric": row.metric, "baseline_mean": row.first,
            "system_mean": row.other, "difference": row.difference.mean,
            "half95": row.difference.half, "p": row.difference.p, "p_holm": row.holm,
        }
        for row in comparison.rows
    ]  # fmt: skip
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(row: Paired) -> dict[str, Any]:
    gap = row.difference
    return {
        "system": row.system, "metric": row.metric, "first": row.first,
        "other": row.other, "difference": gap.mean, "half95": gap.half, "p": gap.p,
        "p_holm": row.holm,
    }  # fmt: skip
