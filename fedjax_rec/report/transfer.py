"""A transfer as a table, in Markdown, and as a curve over local steps."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedjax_rec.runs.folder import Run

CURVE = "few_shot.png"
LABELS = {
    "random": "random",
    "popularity": "popularity (sees the target)",
    "shuffled": "zero-shot, texts shuffled",
    "untrained": "zero-shot, untrained",
    "zero_shot": "zero-shot",
}
"""The rankers but for few-shot, in the order they are shown."""


def label(name: str) -> str:
    """What a ranker is called in a table."""
    kind, _, steps = name.rpartition("_")
    if not steps.isdigit():
        return LABELS[name]
    named = {"few_shot": "few-shot", "untrained": "untrained"}[kind]
    return f"{named}, {steps} local step{'s' if steps != '1' else ''}"


def columns_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Metric name to heading."""
    cutoffs = sorted(result["protocol"]["cutoffs"])
    k = main_cutoff(result)
    return {
        f"hr@{k}": f"HR@{k}",
        f"ndcg@{k}": f"NDCG@{k}",
        f"recall@{cutoffs[-1]}": f"Recall@{cutoffs[-1]}",
        f"mrr@{k}": f"MRR@{k}",
        "auc": "AUC",
    }


def main_cutoff(result: Mapping[str, Any]) -> int:
    """The cut-off of the metrics that differences are told of."""
    cutoffs = sorted(result["protocol"]["cutoffs"])
    return 10 if 10 in cutoffs else cutoffs[0]


def show(console: Console, run: Run) -> None:
    """Prints the table and what it says."""
    result = run.result or {}
    columns = columns_of(result)
    table = Table(box=box.SIMPLE_HEAD)
    table.padding = (0, 1, 0, 0)
    table.pad_edge = False
    table.add_column("target users' last item", min_width=10)
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for name, cells in _rows(result, columns):
        style = "bold" if name.startswith(("zero", "few")) else "dim"
        table.add_row(escape(label(name)), *cells, style=style)
    console.print(table)
    for text in remarks(run):
        console.print(escape(text), highlight=False)


def markdown(run: Run) -> str:
    """The same in Markdown, with what was run."""
    from fedjax_rec.report.comparison import flat

    result = run.result or {}
    columns = columns_of(result)
    lines = [f"# {result['name']}: transfer", ""]
    lines += ["| target users' last item | " + " | ".join(columns.values()) + " |"]
    lines += ["|---|" + "---:|" * len(columns)]
    for name, cells in _rows(result, columns):
        lines.append(f"| {label(name)} | {' | '.join(cells)} |")
    lines += ["", *(f"{text}\n" for text in remarks(run))]
    lines += ["| field | value |", "|---|---|"]
    lines += [f"| `{name}` | {value} |" for name, value in flat(run.config).items()]
    return "\n".join(lines).rstrip() + "\n"


def remarks(run: Run) -> list[str]:
    """How it was measured, and whether zero-shot beats each control."""
    result = run.result or {}
    source, target = result["source"], result["data"]
    few, k = result["few_shot"], main_cutoff(result)
    name = f"ndcg@{k}"
    found = [
        f"Trained on {source['name']} ({source['users']:,} users, {source['items']:,} "
        f"items); ranked for {target['evaluated']:,} of the "
        f"{target['users_with_history']:,} users of {target['name']} with a history "
        f"(drawn with seed {target['seed']}): every one of {target['items']:,} items "
        "but those of the user's history is a candidate for its last item; ties "
        "pessimistic. Popularity counts the histories of all target users, which no "
        "other row here sees."
    ]
    if source["untrained_val"]:
        before, after = source["untrained_val"], source["metrics"]["val"]
        found.append(
            f"On the source's validation, {name}: {before[name]:.4f} untrained, "
            f"{after[name]:.4f} trained (round {result['selected']} of "
            f"{result['rounds']})."
        )
    gaps = []
    for other, gap in result["differences"].items():
        if other not in LABELS:
            continue
        mean, error = gap["mean"], gap["standard_error"]
        sign = "above" if mean > 0 else "below"
        sure = "" if abs(mean) > 2 * error else ", within two standard errors"
        gaps.append(f"{sign} {label(other)} by {abs(mean):.4f} ± {error:.4f}{sure}")
    found.append(f"Zero-shot in {name.upper()}, user by user: {'; '.join(gaps)}.")
    chosen = "given" if not few["validation"] else "chosen on the source's validation"
    found.append(
        f"Few-shot: local steps of SGD at rate {few['lr']:g} ({chosen}) on the "
        f"client's own {', '.join(few['tune'])}, from the latest {few['window']} "
        "interactions of its history."
    )
    if run.seconds:
        seconds = dict.fromkeys(("evaluate", "baselines", "choose"), 0.0) | run.seconds
        found.append(
            f"{seconds['total']:.0f} s: training {seconds['train']:.0f}, the source's "
            f"evaluation {seconds['evaluate'] + seconds['baselines']:.0f}, encoding "
            f"the target {seconds['encode']:.0f}, ranking {seconds['rank']:.0f}, "
            f"choosing the rate {seconds['choose']:.0f}."
        )
    return found


def plot(run: Run, path: str | Path) -> None:
    """Draws NDCG over local steps, between the rankers without any, into an image."""
    from matplotlib.figure import Figure

    result = run.result or {}
    name = f"ndcg@{main_cutoff(result)}"
    rankers = result["rankers"]
    steps = [0, *result["few_shot"]["steps"]]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for zero, kind, style in (
        ("zero_shot", "few_shot", "o-"),
        ("untrained", "untrained", "s--"),
    ):
        curve = [rankers[zero], *(rankers[f"{kind}_{n}"] for n in steps[1:])]
        which = "trained" if zero == "zero_shot" else "untrained"
        axes.plot(steps, [metrics[name] for metrics in curve], style, label=which)
    others = ("popularity", "shuffled", "random")
    for other, style in zip(others, ("--", "-.", ":"), strict=True):
        value = rankers[other][name]
        axes.axhline(value, color="gray", linestyle=style, label=label(other))
    axes.set(xlabel="local steps (0: zero-shot)", ylabel=f"target {name.upper()}")
    axes.set_xticks(steps)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _rows(
    result: Mapping[str, Any], columns: Mapping[str, str]
) -> Iterator[tuple[str, list[str]]]:
    for name, metrics in result["rankers"].items():
        yield name, [f"{metrics[column]:.4f}" for column in columns]
