"""A transfer as a table, in Markdown, and as a curve over local steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from fedjax_rec.evaluation.protocol import main_cutoff
from fedjax_rec.report.comparison import metric_columns
from fedjax_rec.report.tables import Table, fields_of, panels, save, say
from fedjax_rec.runs.folder import Run

CURVE = "few_shot.png"
LABELS = {
    "random": "random",
    "popularity": "popularity (sees the target)",
    "shuffled": "zero-shot, texts shuffled",
    "untrained": "zero-shot, untrained",
    "zero_shot": "zero-shot",
}
"""Rankers without local steps, in the order of the table."""


def label(name: str) -> str:
    """A ranker's label in a table."""
    kind, _, steps = name.rpartition("_")
    if not steps.isdigit():
        return LABELS[name]
    named = {"few_shot": "few-shot", "untrained": "untrained"}[kind]
    return f"{named}, {steps} local step{'s' if steps != '1' else ''}"


def show(console: Console, run: Run) -> None:
    """Prints the table and its remarks."""
    _table(run).print(console)
    say(console, remarks(run))


def markdown(run: Run) -> str:
    """The same as `show` prints in Markdown, with the configuration."""
    lines = [f"# {(run.result or {})['name']}: transfer", "", *_table(run).markdown()]
    lines += ["", *(f"{text}\n" for text in remarks(run)), *fields_of(run.config)]
    return "\n".join(lines).rstrip() + "\n"


def remarks(run: Run) -> list[str]:
    """How it was measured, and whether zero-shot beats each control."""
    result = run.result or {}
    source, target, few = result["source"], result["data"], result["few_shot"]
    name = _main_metric(result)
    sentences = [
        f"Trained on {source['name']} ({source['users']:,} users, {source['items']:,} "
        f"items); ranked for {target['evaluated']:,} of the "
        f"{target['users_with_history']:,} users of {target['name']} with a history "
        f"(drawn with seed {target['seed']}): every one of {target['items']:,} items "
        "but those of the user's history is a candidate for its last item; ties "
        "pessimistic. Popularity counts the histories of all target users, which no "
        "other row sees."
    ]
    if source["untrained_val"]:
        before, after = source["untrained_val"], source["metrics"]["val"]
        sentences.append(
            f"On the source's validation, {name}: {before[name]:.4f} untrained, "
            f"{after[name]:.4f} trained (round {result['selected']} of "
            f"{result['rounds']})."
        )
    gaps = "; ".join(
        _gap(other, **gap)
        for other, gap in result["differences"].items()
        if other in LABELS
    )
    sentences.append(f"Zero-shot in {name.upper()}, user by user: {gaps}.")
    chosen = "given" if not few["validation"] else "chosen on the source's validation"
    sentences.append(
        f"Few-shot: local steps of SGD at rate {few['lr']:g} ({chosen}) on the "
        f"client's own {', '.join(few['tune'])}, from the latest {few['window']} "
        "interactions of its history."
    )
    if run.seconds:
        seconds = dict.fromkeys(("evaluate", "baselines", "choose"), 0.0) | run.seconds
        sentences.append(
            f"{seconds['total']:.0f} s: training {seconds['train']:.0f}, the source's "
            f"evaluation {seconds['evaluate'] + seconds['baselines']:.0f}, encoding "
            f"the target {seconds['encode']:.0f}, ranking {seconds['rank']:.0f}, "
            f"choosing the rate {seconds['choose']:.0f}."
        )
    return sentences


def _gap(other: str, mean: float, standard_error: float) -> str:
    sign = "above" if mean > 0 else "below"
    certain = abs(mean) > 2 * standard_error
    return (
        f"{sign} {label(other)} by {abs(mean):.4f} (standard error over users "
        f"{standard_error:.4f}{'' if certain else ', within two of them'})"
    )


def plot(run: Run, path: str | Path) -> None:
    """Draws NDCG over local steps, with the rankers without any, into an image."""
    result = run.result or {}
    name, rankers = _main_metric(result), result["rankers"]
    steps = [0, *result["few_shot"]["steps"]]
    figure, (axes,) = panels(1, (6, 4))
    for zero, kind, style, legend in (
        ("zero_shot", "few_shot", "o-", "trained"),
        ("untrained", "untrained", "s--", "untrained"),
    ):
        curve = [rankers[zero], *(rankers[f"{kind}_{n}"] for n in steps[1:])]
        axes.plot(steps, [metrics[name] for metrics in curve], style, label=legend)
    others = ("popularity", "shuffled", "random")
    for other, style in zip(others, ("--", "-.", ":"), strict=True):
        value = rankers[other][name]
        axes.axhline(value, color="gray", linestyle=style, label=label(other))
    axes.set(xlabel="local steps (0: zero-shot)", ylabel=f"target {name.upper()}")
    axes.set_xticks(steps)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    save(figure, path)


def _main_metric(result: Mapping[str, Any]) -> str:
    """The metric that differences are computed in."""
    return f"ndcg@{main_cutoff(result['protocol']['cutoffs'])}"


def _table(run: Run) -> Table:
    columns = metric_columns(run.part("protocol")["cutoffs"])
    rankers = run.part("rankers")
    return Table(
        headings=["target users' last item", *columns.values()],
        rows=[
            [label(name), *(f"{metrics[column]:.4f}" for column in columns)]
            for name, metrics in rankers.items()
        ],
        styles=["bold" if n.startswith(("zero", "few")) else "dim" for n in rankers],
    )
