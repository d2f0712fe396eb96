"""A JAX simulator for federated recommendation with foundation models.

Everything here loads on first use, so that `import fedjax_rec` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_rec.experiment.build import Experiment as Experiment
    from fedjax_rec.experiment.build import build as build

__version__ = "0.1.0"

_PUBLIC = {
    "Experiment": "experiment.build",
    "SyntheticData": "data.settings",
    "FileData": "data.settings",
    "CsvData": "data.settings",
    "SplitConfig": "experiment.split",
    "PartitionConfig": "experiment.split",
    "CohortConfig": "experiment.cohort",
    "CodecConfig": "experiment.codec",
    "AggregationConfig": "experiment.aggregation",
    "AttackConfig": "experiment.aggregation",
    "Guidance": "aggregators.guided",
    "ProfileConfig": "experiment.profiles",
    "DeviceClass": "fleet.devices",
    "Execution": "experiment.build",
    "BackboneConfig": "experiment.backbone",
    "MeshConfig": "experiment.mesh",
    "PopulationConfig": "experiment.mesh",
    "build": "experiment.build",
    "Protocol": "evaluation.protocol",
    "paper_compat": "evaluation.protocol",
    "FedAvg": "algorithms.fedavg",
    "FedFM": "algorithms.fedfm",
    "FedMF": "algorithms.fedmf",
    "FedNCF": "algorithms.fedncf",
    "PFedRec": "algorithms.pfedrec",
    "Simulation": "simulation.simulation",
}

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *_PUBLIC,
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
