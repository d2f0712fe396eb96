"""A JAX simulator for federated recommendation with foundation models.

Everything here loads on first use, so that `import fedjax_rec` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedjax_rec.experiment import Experiment as Experiment
    from fedjax_rec.experiment import build as build

__version__ = "0.1.0"

_PUBLIC = {
    "Experiment": "experiment",
    "SyntheticData": "experiment_data",
    "FileData": "experiment_data",
    "CsvData": "experiment_data",
    "SplitConfig": "experiment",
    "PartitionConfig": "experiment",
    "CohortConfig": "experiment_cohort",
    "CodecConfig": "experiment_codec",
    "AggregationConfig": "experiment_aggregation",
    "AttackConfig": "experiment_aggregation",
    "Guidance": "aggregators.guided",
    "ProfileConfig": "experiment_profiles",
    "DeviceClass": "simulation.devices",
    "Execution": "experiment",
    "BackboneConfig": "experiment_backbone",
    "MeshConfig": "experiment_mesh",
    "PopulationConfig": "experiment_mesh",
    "build": "experiment",
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
