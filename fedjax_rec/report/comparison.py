"""Finished runs in comparison: groups, rows and columns of tables."""

import json
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from fedjax_rec.evaluation.protocol import Protocol, main_cutoff
from fedjax_rec.runs.folder import Run
from fedjax_rec.runs.plain import flat

BASELINES = {"popularity": "popularity", "random": "random", "draw_count": "draw count"}
"""Rankers without a model, by name in a result, with their labels."""


_CODE = "defined_in."
"""Part of the names of fields that identify code."""


class Row(NamedTuple):
    """A row of a table: runs that differ only by seed, or a baseline of theirs."""

    label: str
    metrics: list[dict[str, float]]
    baseline: bool = False


def comparable(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """Groups of runs under one protocol and on the same data, with a title each."""
    groups = _group(runs, lambda run: [protocol_of(run), data_of(run)])
    if len(groups) == 1:
        return [("", groups[0])]
    return [
        (f"{chr(ord('A') + i)}: {data_of(group[0]).get('name')}", group)
        for i, group in enumerate(groups)
    ]


def metric_columns(cutoffs: Sequence[int]) -> dict[str, str]:
    """Metric name to heading, for any protocol with these cut-offs."""
    k, last = main_cutoff(cutoffs), max(cutoffs)
    return {
        f"hr@{k}": f"HR@{k}",
        f"ndcg@{k}": f"NDCG@{k}",
        f"recall@{last}": f"Recall@{last}",
        f"mrr@{k}": f"MRR@{k}",
        "auc": "AUC",
    }


def columns_of(runs: Sequence[Run]) -> dict[str, str]:
    """Metric name to heading, for the metrics of these runs."""
    test = metrics_of(runs[0])
    cutoffs = protocol_of(runs[0]).get("cutoffs") or [10]
    k = main_cutoff(cutoffs)
    further = further_metrics(runs[0], "names")
    columns = {
        **metric_columns(cutoffs),
        **{name: name for name in further},
        f"ndcg@{k}/worst_decile": "worst 10%",
        f"ndcg@{k}/gini": "Gini",
        "rmse": "RMSE",
    }
    if further or "rmse" in test:  # eight columns are too many for a terminal of 80
        del columns[f"mrr@{k}"]
    return {name: heading for name, heading in columns.items() if name in test}


def hit_rate(run: Run) -> tuple[str, str]:
    """Name and heading of the hit rate; empty without one."""
    columns = columns_of([run])
    return next(((n, h) for n, h in columns.items() if n.startswith("hr@")), ("", ""))


def rows_of(runs: Sequence[Run]) -> list[Row]:
    """One row per model over its seeds, then the baselines over all runs.

    Of runs that repeat a seed, the first counts.
    """
    groups = same_but_seed([run for run, first in repeated(runs) if first is None])
    labels = labels_of(groups)
    rows = [
        Row(label, [metrics_of(run) for run in group])
        for label, group in zip(labels, groups, strict=True)
    ]
    for name, label in BASELINES.items():
        metrics = _once_per_seed(runs, name)
        rows += [Row(label, metrics, baseline=True)] if metrics else []
    return rows


def _once_per_seed(runs: Sequence[Run], name: str) -> list[dict[str, float]]:
    """A baseline's metrics under each seed, as means over the runs of that seed."""
    groups = _group(runs, lambda run: run.config.get("seed"))
    by_seed = [[run.part("baselines", name) for run in group] for group in groups]
    ranked = [part for group in by_seed if (part := [x for x in group if x])]
    return [
        {metric: _mean([values[metric] for values in part]) for metric in part[0]}
        for part in ranked
    ]


def _mean(values: list[Any]) -> Any:
    """The mean, or `None` if a value is not finite, which JSON has as `null`."""
    return None if None in values else fmean(values)


def repeated(runs: Sequence[Run]) -> list[tuple[Run, Run | None]]:
    """Each run with an earlier one of the same settings and seed, if there is one."""
    groups = _group(runs, _settings)
    first = {id(run): group[0] for group in groups for run in group}
    return [(run, None if first[id(run)] is run else first[id(run)]) for run in runs]


def same_but_seed(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs that differ only by seed, in the order of their first runs."""
    return _group(runs, lambda run: {**_settings(run), "seed": None})


def labels_of(groups: Sequence[Sequence[Run]], seeds: bool = False) -> list[str]:
    """The algorithm; if that is not unique, also the names and fields that differ.

    Args:
        groups: runs that share a row.
        seeds: whether to show seeds that differ.
    """
    everything = [flat(_settings(group[0])) for group in groups]
    configs = [
        {field: value for field, value in config.items() if _CODE not in field}
        for config in everything
    ]
    names = [config["algorithm.type"] for config in configs]
    if len({config.get("name") for config in configs}) > 1:
        names = [f"{c.get('name')}: {n}" for c, n in zip(configs, names, strict=True)]
    labels = []
    rows = zip(configs, names, groups, everything, strict=True)
    for config, name, group, complete in rows:
        same = [c for c, other in zip(configs, names, strict=True) if other == name]
        differ = [
            f"{field.removeprefix('algorithm.')}={value}"
            for field, value in config.items()
            if (field != "seed" or seeds) and any(c.get(field) != value for c in same)
        ]
        alike = [
            c for c, other in zip(everything, configs, strict=True) if other == config
        ]
        differ += _versions_of_code(complete, alike)
        count = f" x {len(group)}" if len(group) > 1 else ""
        labels.append(" ".join([name, ", ".join(differ)]).strip() + count)
    return labels


def _versions_of_code(
    config: dict[str, Any], alike: Sequence[dict[str, Any]]
) -> list[str]:
    """The files of parts that differ in nothing but their code, with its hash."""
    return [
        f"{config[field.removesuffix('sha256') + 'file']} {value[:8]}"
        for field, value in config.items()
        if field.endswith(f"{_CODE}sha256")
        and any(other.get(field) != value for other in alike)
    ]


def protocol_of(run: Run) -> dict[str, Any]:
    """The protocol of a result."""
    protocol = dict(run.part("protocol"))
    if "watch" in protocol:  # version 0.1
        protocol["exposed_item"] = protocol.pop("watch")
    for name in ("disjoint_candidates", "selection_ties", "metric"):  # before 0.2
        protocol.setdefault(name, getattr(Protocol(), name))
    return protocol


def further_metrics(run: Run, which: str) -> list[str]:
    """`names` of the results of the protocol's own metric, or `lower_is_better`."""
    return list((run.part("protocol").get("metric") or {}).get(which, ()))


def data_of(run: Run) -> dict[str, Any]:
    """Settings and facts of the data."""
    return {**_settings(run)["data"], **run.part("data")}


def metrics_of(run: Run) -> dict[str, float]:
    """The metrics of the test part."""
    return run.part("metrics", "test")


def _group(runs: Sequence[Run], key: Callable[[Run], Any]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(key(run), sort_keys=True), []).append(run)
    return list(groups.values())


def _settings(run: Run) -> dict[str, Any]:
    """The configuration without file locations, with the backbone that was used.

    A run that started from another one also has `started_from`.
    """
    settings = dict(run.config)
    if start := run.versions.get("started_from"):
        settings["started_from"] = start
    for part, places in (
        ("data", ("cache", "dir", "download")),
        ("backbone", ("cache",)),
    ):
        fields = run.config.get(part) or {}
        settings[part] = {k: v for k, v in fields.items() if k not in places}
    if run.part("backbone").get("stands_in"):
        settings["backbone"]["name"] = "tiny"
    return settings
