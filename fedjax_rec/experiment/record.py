"""The content of `result.json`, and the name of a run."""

from pathlib import Path
from typing import Any

from fedjax_rec.data.settings import CsvData, FileData
from fedjax_rec.evaluation import own_metric, per_user
from fedjax_rec.experiment.held_out import untimed
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.fleet.totals import summarise_costs
from fedjax_rec.runs.fingerprint import digest
from fedjax_rec.runs.plain import plain
from fedjax_rec.simulation.evaluation import user_ids
from fedjax_rec.simulation.simulation import Simulation


def record(
    experiment: Experiment, simulation: Simulation, result: dict[str, Any]
) -> dict[str, Any]:
    """The content of `result.json`."""
    train, protocol = simulation.split.train, dict(result["protocol"])
    # `history` is in metrics.jsonl; the split's info may hold entire data sets.
    protocol["split_info"] = {
        name: value
        for name, value in protocol["split_info"].items()
        if isinstance(value, bool | int | float | str)
    }
    if (metric := experiment.protocol.metric) is not None:
        lower = own_metric.lower_is_better(metric)
        names = {"names": own_metric.names_of(metric), "lower_is_better": lower}
        protocol["metric"] = plain(metric) | plain(names)
    warning = untimed(simulation.split)
    test = simulation.targets["test"]
    ranked = per_user.ranked(test, user_ids(simulation, "test"), train.items.ids)
    diverged = result["diverged_in_round"]
    return {
        "name": experiment.name,
        "algorithm": type(experiment.algorithm).__name__,
        "seed": experiment.seed,
        "metrics": result["metrics"],
        "selected": result["selected"],
        "baselines": result["baselines"],
        "protocol": protocol,
        "data": {
            "name": train.name,
            "users": train.num_users,
            "items": train.num_items,
            "train": len(train),
            "val": len(simulation.split.val),
            "test": len(simulation.split.test),
            "clients": simulation.data.num_clients,
            **({"untimed": warning} if warning else {}),
        },
        "ranked": {"users": len(ranked["user"]), "digest": digest(ranked)},
        **simulation.notes,
        "costs": summarise_costs(result["history"]),
        "rounds": result["rounds"],
        **({"dispersion_over": "clients"} if simulation.multi_user else {}),
        **({"diverged_in_round": diverged} if diverged else {}),
    }


def run_name(experiment: Experiment) -> str:
    """`NAME-ALGORITHM-DATA-sSEED`."""
    algorithm = type(experiment.algorithm).__name__.lower()
    source = data_name(experiment.data)
    return f"{experiment.name}-{algorithm}-{source}-s{experiment.seed}"


def data_name(data: Any) -> str:
    """The source of data, the name of their file, or their kind."""
    source = data.source if isinstance(data, FileData) else ""
    if isinstance(data, CsvData):
        source = Path(data.dir or "").stem
    return source or type(data).__name__.removesuffix("Data").lower()
