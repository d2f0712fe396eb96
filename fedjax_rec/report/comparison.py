"""What sets finished runs beside one another: groups, rows, columns, warnings."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fedjax_rec.report.costs import costs_in_words
from fedjax_rec.runs.folder import Run, differences

BASELINES = {
    "popularity": "popularity",
    "random": "random",
    "draw_count": "draw count",
}
"""Rankers that learn nothing, with the names they are shown by."""

LEGEND = (
    "Worst 10% and Gini: of the users' NDCG. Draw count: ranks by how seldom training "
    "drew an item as a negative; above chance, the negatives leak."
)
"""What headings and baselines mean."""


class Row(NamedTuple):
    """A line of a table: runs that differ by seed alone, or a baseline of theirs."""

    label: str
    results: list[Mapping[str, Any]]
    metrics: list[Mapping[str, float]]
    baseline: bool = False


def comparable(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Groups of runs under one protocol and on the same data, with a title each."""
    groups = _group(runs, lambda run: [_protocol(run), _data(run)])
    if len(groups) == 1:
        return [("", groups[0])]
    return [
        (f"{letter}: {_data(group[0]).get('name')}", group)
        for letter, group in zip(_letters(len(groups)), groups, strict=True)
    ]


def columns_of(runs: Iterable[Run]) -> dict[str, str]:
    """Metric name to heading, for what these runs measured."""
    run = next(iter(runs))
    test = _test(run)
    cutoffs = sorted(_protocol(run).get("cutoffs") or [10])
    k = 10 if 10 in cutoffs else cutoffs[0]
    columns = {
        f"hr@{k}": f"HR@{k}",
        f"ndcg@{k}": f"NDCG@{k}",
        f"recall@{cutoffs[-1]}": f"Recall@{cutoffs[-1]}",
        f"mrr@{k}": f"MRR@{k}",
        "auc": "AUC",
        f"ndcg@{k}/worst_decile": "worst 10%",
        f"ndcg@{k}/gini": "Gini",
        "rmse": "RMSE",
    }
    if "rmse" in test:  # eight columns are too many for a terminal of 80
        del columns[f"mrr@{k}"]
    return {name: heading for name, heading in columns.items() if name in test}


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """The models, each with its seeds together, then the baselines over all runs."""
    groups = _group(runs, lambda run: {**_settings(run), "seed": None})
    rows = [
        Row(label, [run.result or {} for run in group], [_test(run) for run in group])
        for label, group in zip(labels_of(groups), groups, strict=True)
    ]
    for name, label in BASELINES.items():
        found = [r.result for r in runs if r.result and r.result["baselines"].get(name)]
        metrics = [result["baselines"][name] for result in found]
        if found:
            rows.append(Row(label, list(found), metrics, baseline=True))
    return rows


def protocol_in_words(protocol: Mapping[str, Any]) -> str:
    """How a result was obtained, in a sentence."""
    ranked = {
        "full": "every item the user has in no earlier part is ranked",
        "cold": "the held-out items, which nobody trained on, are ranked",
        "sampled": f"each positive is ranked among {protocol['num_candidates']} "
        "sampled items the user never touched",
    }[protocol["candidates"]]
    negatives = (
        "outside the user's training items"
        if protocol["negative_pool"] == "not_train"
        else "outside the user's training, validation and test items"
    )
    evaluated = (
        "the aggregated parameters"
        if protocol["evaluated"] == "aggregated"
        else "each client's own parameters after tuning"
    )
    selection = protocol["selection"]
    chosen = (
        "the last round"
        if selection == "last"
        else f"the round with the best validation {selection}"
    )
    return (
        f"Protocol ({protocol['preset']}): split {protocol.get('split', 'unknown')}; "
        f"{ranked}; ties {protocol['ties']}; training negatives from {negatives}; "
        f"{evaluated} of {chosen}."
    )


def backbone_in_words(facts: Mapping[str, Any]) -> str:
    """What was trained on which foundation model, and what a client sends."""
    where = f" in the last {facts['adapter_layers']} of {facts['layers']} layers"
    kind = facts["adapter"]
    adapter = (
        "no adapter"
        if kind == "none"
        else f"{kind} of {facts['adapter_parameters']:,} parameters"
        + (where if facts["adapter_layers"] else " on the embedding")
    )
    shuffled = (
        " The texts were SHUFFLED: every item got another one's."
        if facts["shuffled"]
        else ""
    )
    bits = facts["message_bits"]
    parts = ", ".join(f"{name} {size / 8000:,.1f}" for name, size in bits.items())
    return (
        f"Backbone {facts['name']} ({facts['layers']} layers of width "
        f"{facts['width']}, {facts['dtype']}), {adapter}; path {facts['path']}, items "
        f"encoded {'once a round' if facts['once'] else 'by each client'}.{shuffled} "
        f"A client sends {sum(bits.values()) / 8000:,.1f} kB a round, uncompressed: "
        f"{parts}."
    )


def warnings_of(runs: Sequence[Run]) -> list[str]:
    """What forbids taking these numbers at face value."""
    found = []
    groups = comparable(runs)
    for (title, one), (title_2, other) in itertools.pairwise(groups):
        before, after = (
            {"protocol": _protocol(g[0]), "data": _data(g[0])} for g in (one, other)
        )
        first, second = title[0], title_2[0]
        changes = differences(before, after, words=(f"in {first}", f"in {second}"))
        found.append(
            f"NOT COMPARABLE: {first} ({_places(one)}) and {second} "
            f"({_places(other)}) differ in how they were measured: {'; '.join(changes)}"
        )
    compat = [run for run in runs if _protocol(run)["negative_pool"] != "not_train"]
    if compat:
        found.append(
            f"PAPER-COMPAT ({_places(compat)}): training negatives avoid the "
            "validation and test items, which tells every client what they are. "
            "For comparison with published figures only; no evidence that the model "
            "learned anything"
        )
    for run in runs:
        result, (hr, name) = run.result or {}, _hit_rate(run)
        draws = (result["baselines"].get("draw_count") or {}).get(hr)
        chance = (result["baselines"].get("random") or {}).get(hr)
        if draws is None or chance is None:
            continue
        if draws > 2 * chance and draws > chance + 0.05:
            found.append(
                f"THE NEGATIVES LEAK ({run.path}): a ranker with no model, that counts "
                f"how seldom an item was drawn as a negative, reaches {name} = "
                f"{draws:.3f}; chance is {chance:.3f}"
            )
    for run in runs:
        backbone = _backbone(run)
        if backbone.get("stands_in"):
            found.append(f"STAND-IN ({run.path}): {backbone['warning']}")
    for run in runs:
        since = (run.result or {}).get("loss_not_finite_since_round")
        if since:
            found.append(
                f"DIVERGED ({run.path}): the loss is not finite since round {since}; "
                "lower algorithm.client_lr"
            )
    return found


def remarks_of(runs: Sequence[Run]) -> list[str]:
    """What a reader should know beside the table."""
    found = [LEGEND]
    for run in runs:
        (hr, name), result = _hit_rate(run), run.result or {}
        popular = (result["baselines"].get("popularity") or {}).get(hr)
        reached = _test(run).get(hr)
        if popular is not None and reached is not None and reached <= popular:
            found.append(
                f"{run.path}: the model does not beat popularity ({name} "
                f"{reached:.4f}, popularity {popular:.4f})."
            )
    if len(runs) == 1:
        result = runs[0].result or {}
        if backbone := _backbone(runs[0]):
            found.append(backbone_in_words(backbone))
        if result.get("costs"):
            found.append(costs_in_words(result["costs"], result.get("devices") or {}))
        selected = f"Round {result['selected']} of {result['rounds']} was selected."
        found.append(f"{selected} {_seconds_in_words(runs[0].seconds)}".rstrip())
    elif any(
        len(r.metrics) > 1 for _, group in comparable(runs) for r in rows_of(group)
    ):
        found.append("± is the standard deviation over the runs of a line.")
    return found


def _seconds_in_words(seconds: Mapping[str, float]) -> str:
    if not seconds:  # timings.jsonl is not there: nobody needs it to compare
        return ""
    kinds = {"train": "training", "evaluate": "evaluation", "baselines": "baselines"}
    parts = [f"{word} {seconds.get(kind, 0):.1f}" for kind, word in kinds.items()]
    times = int(seconds["lives"]) - 1
    again = f", resumed {times} time{'s' * (times > 1)}" if times else ""
    return f"{seconds['total']:.1f} s{again}: {', '.join(parts)}."


def labels_of(groups: Sequence[Sequence[Run]], seeds: bool = False) -> list[str]:
    """The algorithm; where that is not enough, also names and fields that differ.

    Args:
        groups: runs that are shown as one.
        seeds: whether a seed tells runs apart, too.
    """
    configs = [_settings(group[0]) for group in groups]
    plain = [c["algorithm"]["type"] for c in configs]
    if len({c.get("name") for c in configs}) > 1:
        plain = [
            f"{c.get('name')}: {kind}" for c, kind in zip(configs, plain, strict=True)
        ]
    labels = []
    for config, label, group in zip(configs, plain, groups, strict=True):
        same = [c for c, other in zip(configs, plain, strict=True) if other == label]
        fields = [n for n in flat(config) if n != "seed" or seeds]
        differ = [
            f"{name.removeprefix('algorithm.')}={flat(config)[name]}"
            for name in fields
            if any(flat(c).get(name) != flat(config)[name] for c in same)
        ]
        count = f" x {len(group)}" if len(group) > 1 else ""
        labels.append(" ".join([label, ", ".join(differ)]).strip() + count)
    return labels


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; of a list of dicts by their numbers."""
    if isinstance(tree, list) and tree and all(isinstance(x, dict) for x in tree):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {name: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{name}.{key}" if name else key)
    return leaves


def _group(runs: Sequence[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def _hit_rate(run: Run) -> tuple[str, str]:
    columns = columns_of([run])
    return next(((n, h) for n, h in columns.items() if n.startswith("hr@")), ("", ""))


def _letters(count: int) -> list[str]:
    return [chr(ord("A") + i) for i in range(count)]


def _places(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.path) for run in runs)


def _protocol(run: Run) -> dict[str, Any]:
    return (run.result or {}).get("protocol") or {}


def _settings(run: Run) -> dict[str, Any]:
    """The configuration, but for where files lie; the backbone that was there."""
    settings = dict(run.config)
    for part in ("data", "backbone"):
        fields = dict(run.config.get(part) or {})
        for place in ("cache", *(("dir", "download") if part == "data" else ())):
            fields.pop(place, None)
        settings[part] = fields
    if _backbone(run).get("stands_in"):
        settings["backbone"]["name"] = "tiny"
    return settings


def _backbone(run: Run) -> dict[str, Any]:
    return (run.result or {}).get("backbone") or {}


def _data(run: Run) -> dict[str, Any]:
    return {**_settings(run)["data"], **((run.result or {}).get("data") or {})}


def _test(run: Run) -> dict[str, float]:
    return ((run.result or {}).get("metrics") or {}).get("test") or {}
