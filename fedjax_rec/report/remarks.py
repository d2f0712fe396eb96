"""Warnings about finished runs, and remarks below their tables."""

import itertools
from collections.abc import Sequence

from fedjax_rec.evaluation.chance import above_chance
from fedjax_rec.evaluation.protocol import main_cutoff
from fedjax_rec.report.comparison import (
    comparable,
    data_of,
    further_metrics,
    hit_rate,
    metrics_of,
    protocol_of,
    repeated,
    rows_of,
)
from fedjax_rec.report.words import backbone_in_words, costs_in_words, seconds_in_words
from fedjax_rec.runs.folder import Run
from fedjax_rec.runs.plain import differences

LEGEND = (
    "Worst 10% and Gini: of the {owners} NDCG. Draw count: ranks by how seldom "
    "training drew an item as a negative; above chance, the negatives leak."
)
"""Explains headings and baselines."""


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """Reasons not to take these numbers at face value."""
    warnings = []
    for (title, runs_a), (title_b, runs_b) in itertools.pairwise(comparable(runs)):
        before, after = (
            {"protocol": protocol_of(group[0]), "data": data_of(group[0])}
            for group in (runs_a, runs_b)
        )
        a, b = title[0], title_b[0]
        changes = differences(before, after, words=(f"in {a}", f"in {b}"))
        warnings.append(
            f"NOT COMPARABLE: {a} ({_paths(runs_a)}) and {b} ({_paths(runs_b)}) differ "
            f"in how they were measured: {'; '.join(changes)}"
        )
    compat = [run for run in runs if protocol_of(run)["negative_pool"] != "not_train"]
    if compat:
        warnings.append(
            f"PAPER-COMPAT ({_paths(compat)}): training negatives avoid the "
            "validation and test items, which shows every client which items they are. "
            "For comparison with published figures only; no evidence that the model "
            "learned anything"
        )
    warnings += filter(None, map(_leak, runs))
    for run in runs:
        test = metrics_of(run)
        if lost := [n for n in further_metrics(run, "names") if test.get(n) is None]:
            warnings.append(
                f"NOT FINITE ({run.path}): {', '.join(lost)} of some users, so that "
                "there is no mean; protocol.metric has to return a finite number for "
                "every user"
            )
    for run in runs:
        backbone = run.part("backbone")
        if backbone.get("stands_in"):
            warnings.append(f"STAND-IN ({run.path}): {backbone['warning']}")
    for run in runs:
        if text := run.part("data").get("untimed"):
            warnings.append(f"NO TIMESTAMPS ({run.path}): {text}")
    for run, first in repeated(runs):
        if first is not None:
            warnings.append(
                f"REPEATED ({run.path}): the same settings and seed as {first.path}, "
                "which is counted; a second run of a seed is no further evidence"
            )
    warnings += filter(None, map(_rejected, runs))
    for run in runs:
        since = (run.result or {}).get("diverged_in_round")
        if since:
            warnings.append(
                f"DIVERGED ({run.path}): the run stopped at round {since}, in which no "
                f"client sent a finite message or the model was no longer finite; "
                f"{diverged_advice(since)}"
            )
    return warnings


def diverged_advice(since: int) -> str:
    """What to look for after a run that diverged in round `since`."""
    rates = "lower the learning rates of the clients and of the server"
    if since > 1:
        return rates
    return (
        "from the first round on, the loss or its gradients are NaN or infinite: look "
        "for logarithms, divisions and roots in the loss, and for such values in the "
        f"data; if there are none, {rates}"
    )


def _rejected(run: Run) -> str:
    """Warning if rounds left out clients; else empty."""
    rounds = [event for event in run.events if event["event"] == "round"]
    counts = [event.get("rejected_clients") or 0 for event in rounds]
    if not any(counts):
        return ""
    return (
        f"REJECTED CLIENTS ({run.path}): {sum(counts) / len(counts):.1f} clients a "
        "round, on average, were left out, since numbers of their messages were not "
        "finite or too large to add up"
    )


def _leak(run: Run) -> str:
    """Warning if the draw count ranks significantly above chance; else empty."""
    draws = run.part("baselines", "draw_count")
    cutoff = main_cutoff(protocol_of(run).get("cutoffs") or [10])
    names = above_chance(draws, cutoff)
    if not names:
        return ""
    reached = " and ".join(
        f"{name.upper()} = {draws[name]:.3f} (chance {draws[f'{name}/chance']:.3f}, "
        f"standard error {draws[f'{name}/error']:.3f})"
        for name in names
    )
    return (
        f"THE NEGATIVES LEAK ({run.path}): a ranker with no model, that counts how "
        f"seldom an item was drawn as a negative, reaches {reached}"
    )


def _legend(runs: Sequence[Run]) -> str:
    """The legend, with what the dispersion is of."""
    over = [run for run in runs if run.part().get("dispersion_over") == "clients"]
    owners = "users'"
    if over:
        owners = "clients' mean (they hold several users)"
    if over and len(over) < len(runs):
        owners = f"users' and, for {_paths(over)}, of the {owners}"
    return LEGEND.format(owners=owners)


def remarks_of(runs: Sequence[Run]) -> list[str]:
    """Sentences below the tables."""
    remarks = [_legend(runs)]
    for run in runs:
        hr, heading = hit_rate(run)
        popular = run.part("baselines", "popularity").get(hr)
        reached = metrics_of(run).get(hr)
        if popular is not None and reached is not None and reached <= popular:
            remarks.append(
                f"{run.path}: the model does not beat popularity ({heading} "
                f"{reached:.4f}, popularity {popular:.4f})."
            )
    if len(runs) == 1:
        return remarks + _of_one(runs[0])
    groups = (group for _, group in comparable(runs))
    if any(len(row.metrics) > 1 for group in groups for row in rows_of(group)):
        remarks.append(
            "± is half the 95 % interval of the mean over seeds (Student's t)."
        )
    return remarks


def _of_one(run: Run) -> list[str]:
    result, remarks = run.result or {}, []
    if backbone := run.part("backbone"):
        remarks.append(backbone_in_words(backbone))
    if costs := run.part("costs"):
        remarks.append(costs_in_words(costs, run.part("devices")))
    selected = f"Round {result['selected']} of {result['rounds']} was selected."
    return [*remarks, f"{selected} {seconds_in_words(run.seconds)}".rstrip()]


def _paths(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.path) for run in runs)
