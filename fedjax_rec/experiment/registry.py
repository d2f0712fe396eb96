"""The kinds of every part of an experiment, by name.

A new kind is one line here: its name, and the module and class of its settings, which
load when the kind is chosen.
"""

from __future__ import annotations

import importlib
from typing import Any

_OPTIMIZERS = {
    "sgd": "core.optimizers:SGD",
    "momentum": "core.optimizers:Momentum",
    "adam": "core.optimizers:Adam",
    "adagrad": "core.optimizers:Adagrad",
}

_BUFFERED_RULES = {
    "median": "aggregators.robust.medians:Median",
    "trimmed_mean": "aggregators.robust.medians:TrimmedMean",
    "meamed": "aggregators.robust.meamed:MeaMed",
    "geometric_median": "aggregators.robust.medians:GeometricMedian",
    "krum": "aggregators.robust.krum:Krum",
    "multi_krum": "aggregators.robust.krum:MultiKrum",
    "bulyan": "aggregators.robust.neighbours:Bulyan",
    "centered_clipping": "aggregators.robust.clipping:CenteredClipping",
    "nnm": "aggregators.robust.neighbours:NNM",
}
"""Rules that keep the cohort's deltas, so that another rule can change them before."""

_RULES = {
    "mean": "aggregators.means:Mean",
    "sum": "aggregators.means:Sum",
    "by_size": "aggregators.weights:BySize",
    "by_effective_number": "aggregators.weights:ByEffectiveNumber",
    "by_magnitude": "aggregators.weights:ByMagnitude",
    "attentive": "aggregators.weights:Attentive",
    "fednova": "aggregators.weights:FedNova",
    "tilted": "aggregators.losses:Tilted",
    "q_fedavg": "aggregators.losses:QFedAvg",
    "agnostic": "aggregators.losses:Agnostic",
    **_BUFFERED_RULES,
    "norm_bound": "aggregators.robust.clipping:NormBound",
    "majority_vote": "aggregators.robust.medians:MajorityVote",
    "by_trend": "contrib.weights:ByTrend",
    "by_participation": "contrib.weights:ByParticipation",
}

_QUANTIZERS = {
    "float32": "codecs.quantize:Float32",
    "bf16": "codecs.quantize:BF16",
    "block_int": "codecs.quantize:BlockInt",
    "qsgd": "codecs.quantize:QSGD",
    "rotated_qsgd": "codecs.rotate:RotatedQSGD",
    "terngrad": "codecs.quantize:TernGrad",
    "natural": "codecs.natural:NaturalCompression",
    "drive": "codecs.rotate:Drive",
}
"""Codecs for the values that another codec has selected."""

_CODECS = {
    **_QUANTIZERS,
    "sign": "codecs.quantize:Sign",
    "top_k": "codecs.sparsify:TopK",
    "row_top_k": "codecs.sparsify:RowTopK",
    "random_k": "codecs.sparsify:RandomK",
    "threshold": "codecs.sparsify:Threshold",
    "dgc": "codecs.dgc:DGC",
    "svd": "codecs.low_rank:SVD",
    "power_sgd": "codecs.low_rank:PowerSGD",
}

SLOTS: dict[str, dict[str, str]] = {
    "data": {
        "synthetic": "data.settings:SyntheticData",
        "files": "data.settings:FileData",
        "csv": "data.settings:CsvData",
        "given": "data.settings:GivenData",
    },
    "split": {
        "leave_one_out": "data.splits.settings:LeaveOneOut",
        "leave_last": "data.splits.settings:LeaveLast",
        "ratio": "data.splits.settings:Ratio",
        "global_time": "data.splits.settings:GlobalTime",
        "cold_items": "data.splits.settings:ColdItems",
        "cold_users": "data.splits.settings:ColdUsers",
    },
    "partition": {
        "per_user": "data.partition.units:PerUser",
        "iid": "data.partition.units:IID",
        "dirichlet": "data.partition.labels:Dirichlet",
        "quantity_skew": "data.partition.units:QuantitySkew",
        "shards": "data.partition.labels:Shards",
        "by_attribute": "data.partition.units:ByAttribute",
        "drift": "data.partition.labels:Drift",
    },
    "backbone": {"checkpoint": "backbones.settings:BackboneConfig"},
    "algorithm": {
        "fcf": "algorithms.fcf:FCF",
        "fedavg": "algorithms.fedavg:FedAvg",
        "fedfm": "algorithms.fedfm:FedFM",
        "fedmf": "algorithms.fedmf:FedMF",
        "fedncf": "algorithms.implicit:FedNCF",
        "pfedrec": "algorithms.implicit:PFedRec",
    },
    "model": {
        "mf": "models.settings:MatrixFactorization",
        "ncf": "models.settings:NeuralCF",
        "scorer": "models.settings:PersonalScorer",
    },
    "client_optimizer": _OPTIMIZERS,
    "optimizer": _OPTIMIZERS,
    "server_optimizer": {
        "sgd": "core.optimizers:SGD",
        "fedavgm": "core.optimizers:FedAvgM",
        "fedadam": "core.optimizers:FedAdam",
        "fedyogi": "core.optimizers:FedYogi",
        "fedadagrad": "core.optimizers:FedAdagrad",
    },
    "adapter": {
        "lora": "models.adapters.in_layers:LoRA",
        "bottleneck": "models.adapters.in_layers:Bottleneck",
        "prefix_tuning": "models.adapters.in_layers:PrefixTuning",
        "embedding": "models.adapters.embedding:EmbeddingAdapter",
    },
    "users": {
        "vector": "algorithms.fedfm_parts:UserVector",
        "history": "algorithms.fedfm_parts:History",
        "both": "algorithms.fedfm_parts:VectorAndHistory",
    },
    "training": {
        "joint": "algorithms.fedfm_parts:Joint",
        "reconstruction": "algorithms.fedfm_parts:Reconstruction",
    },
    "wrapper": {
        "scaffold": "wrappers.scaffold:Scaffold",
        "ifca": "wrappers.clustered:IFCA",
        "clustered_by_profile": "wrappers.clustered:ClusteredByProfile",
        "fetch_sgd": "wrappers.fetch_sgd:FetchSGD",
        "freeze": "wrappers.freeze:Freeze",
        "fedit": "wrappers.lora.rules:FedIT",
        "fedex": "wrappers.lora.rules:FedEx",
        "flora": "wrappers.lora.rules:FLoRA",
        "hetlora": "wrappers.lora.rules:HetLoRA",
        "flexlora": "wrappers.lora.rules:FlexLoRA",
        "fedamp": "contrib.fedamp:FedAMP",
        "clustered_by_update": "contrib.clustered_by_update:ClusteredByUpdate",
        "guided": "contrib.guided:Guided",
        "colr": "contrib.colr:CoLR",
    },
    "wrapper.then": {
        "scaffold": "wrappers.scaffold:Scaffold",
        "colr": "contrib.colr:CoLR",
    },
    "aggregation": _RULES,
    "aggregation.then": _BUFFERED_RULES,
    "codec": _CODECS,
    "codec.then": _QUANTIZERS,
    "attack": {
        "sign_flip": "attacks.false_deltas:SignFlip",
        "noise": "attacks.false_deltas:Noise",
        "boost": "attacks.false_deltas:Boost",
        "alie": "aggregators.robust.colluding:ALIE",
        "ipm": "aggregators.robust.colluding:IPM",
    },
    "metric": {"novelty": "evaluation.novelty:Novelty"},
    "cohort": {
        "all": "fleet.cohorts:AllClients",
        "uniform": "fleet.cohorts:Uniform",
        "poisson": "fleet.cohorts:Poisson",
        "weighted": "fleet.cohorts:Weighted",
        "available": "fleet.cohorts:Available",
    },
}
"""Kinds by the field that holds the part; for a field `then`, also by its owner's name
(`wrapper.then`)."""

OPTIONAL = (
    "adapter", "aggregation", "attack", "codec", "codec.then", "metric", "wrapper",
    "wrapper.then",
)  # fmt: skip
"""Slots that may be `None`, which is written `none`."""


OWN: dict[str, type] = {}
"""Classes of kinds from users' files, by `location_of`."""


def add(slot: str, name: str, cls: type) -> None:
    """Adds a kind from a user's file, or replaces it after its file was changed.

    Raises:
        ValueError: the package or another file has a kind or class of that name.
    """
    location = location_of(cls)
    for taken, what in (
        (SLOTS[slot].get(name), f"{slot} {name!r}"),
        (locations().get(cls.__name__), f"class {cls.__name__}"),
    ):
        if taken not in (None, location):
            owner = OWN[taken].__module__ if taken in OWN else "fedjax_rec"
            raise ValueError(
                f"the {what} exists already, in {owner}: choose another name"
            )
    SLOTS[slot][name] = location
    OWN[location] = cls


def slot_of(path: str) -> str | None:
    """The entry of `SLOTS` for a field with a dotted name, or `None`.

    >>> slot_of("algorithm.server_optimizer"), slot_of("rounds")
    ('server_optimizer', None)
    """
    *owners, field = path.split(".")
    if field == "then" and owners:
        root = next((name for name in owners if name in SLOTS), owners[0])
        return f"{root}.then" if f"{root}.then" in SLOTS else None
    return field if field in SLOTS else None


def load(slot: str, name: str) -> type:
    """The class of settings with a name, as written in `SLOTS` or as the class's own.

    Raises:
        KeyError: there is no such kind.
    """
    wanted = name.lower().replace("-", "_")
    for kind, location in SLOTS[slot].items():
        if wanted in (kind, location.rpartition(":")[2].lower()):
            return load_class(location)
    raise KeyError(name)


def load_class(location: str) -> type:
    """The class at `module:Class`, with the module below this package, or of `OWN`."""
    if location in OWN:
        return OWN[location]
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(f"fedjax_rec.{module}"), name)


def location_of(cls: type) -> str:
    """`module:Class`, with the module below this package, as in `SLOTS`."""
    return f"{cls.__module__.removeprefix('fedjax_rec.')}:{cls.__name__}"


def name_of(part: Any) -> str:
    """The name of a part's kind in `SLOTS`, or that of its class.

    A part with `then` is written `a+b`, as `fields.read_kind` reads it.
    """
    if part is None:
        return "none"
    cls = type(part)
    name = kinds().get(location_of(cls), cls.__name__)
    then = getattr(part, "then", None)
    return name if then is None else f"{name}+{name_of(then)}"


def kinds() -> dict[str, str]:
    """The name of each kind by the location of its class."""
    return {where: kind for slot in SLOTS.values() for kind, where in slot.items()}


def locations() -> dict[str, str]:
    """The location of each class of settings by its name."""
    return {location.rpartition(":")[2]: location for location in kinds()}
