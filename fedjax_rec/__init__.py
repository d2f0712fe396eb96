"""A JAX simulator for federated recommendation with foundation models.

All names load on first use, so that `import fedjax_rec` is quick. They include every
class of settings in `experiment/registry.py`, such as `Krum` or `TopK`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_rec import testing as testing
    from fedjax_rec.algorithms.system import System as System
    from fedjax_rec.cli.function import train as train
    from fedjax_rec.experiment.build import build as build
    from fedjax_rec.experiment.load import load as load
    from fedjax_rec.experiment.own_kinds import kind as kind
    from fedjax_rec.experiment.settings import Experiment as Experiment
    from fedjax_rec.models.declarative import ModelSettings as ModelSettings
    from fedjax_rec.models.declared import dense as dense
    from fedjax_rec.models.declared import table as table

__version__ = "0.2.0"

_PUBLIC = {
    "Experiment": "experiment.settings",
    "Execution": "experiment.settings",
    "MeshConfig": "experiment.settings",
    "StoreConfig": "experiment.settings",
    "ClientProfile": "clients.profile",
    "DeviceClass": "fleet.devices",
    "FleetConfig": "fleet.devices",
    "Protocol": "evaluation.protocol",
    "paper_compat": "evaluation.protocol",
    "build": "experiment.build",
    "load": "experiment.load",
    "TrainedModel": "experiment.load",
    "train": "cli.function",
    "Trained": "cli.function",
    "kind": "experiment.own_kinds",
    "System": "algorithms.system",
    "ModelSettings": "models.declarative",
    "table": "models.declared",
    "dense": "models.declared",
    "Simulation": "simulation.simulation",
    "federated": "simulation.round",
    "draw_cohort": "simulation.drawn_rounds",
    "initial_personal": "simulation.personal",
    "Cohort": "core.rounds",
    "Params": "core.contracts",
    "from_frame": "data.frames",
    "from_rows": "data.frames",
    "Interactions": "data.interactions",
    "Entities": "data.interactions",
    "Split": "data.splits.split",
    "split_by": "data.splits.split",
    "Partition": "data.partition.units",
    "partition_by": "data.partition.units",
    "Ranking": "evaluation.ranking",
}


def _kinds() -> dict[str, str]:
    registry = importlib.import_module("fedjax_rec.experiment.registry")
    return {
        name: location.partition(":")[0]
        for name, location in registry.locations().items()
        if location not in registry.OWN
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name == "testing":
        return importlib.import_module(f"{__name__}.{name}")
    location = None
    if not name.startswith("_"):
        location = _PUBLIC.get(name) or _kinds().get(name)
        renamed = importlib.import_module("fedjax_rec.experiment.renamed")
        if location is None and (sentence := renamed.new_class(name)) is not None:
            # `from fedjax_rec import NAME` would hide the text of an AttributeError.
            raise ImportError(sentence)
    if location is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{location}"), name)


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, *_kinds(), "testing", "__version__"])
