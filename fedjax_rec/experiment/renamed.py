"""Spellings of version 0.1, and the present ones."""

from collections.abc import Sequence

from fedjax_rec.experiment import registry

_FIELDS = {
    "split.kind": "--split KIND",
    "split.last": "--split.count",
    "partition.kind": "--partition KIND",
    "codec.name": "--codec KIND",
    "codec.columns": "--wrapper.columns of --wrapper fetch_sgd",
    "codec.momentum": "--wrapper.momentum of --wrapper fetch_sgd",
    "aggregation.rule": "--aggregation KIND",
    "aggregation.group_rate": "--aggregation.rate",
    "aggregation.guidance.examples": "--wrapper.examples of --wrapper guided",
    "aggregation.guidance.similarity": "--wrapper.similarity of --wrapper guided",
    "aggregation.guidance.norm": "--wrapper.norm of --wrapper guided",
    "aggregation.guidance.agreement": "--wrapper.agreement of --wrapper guided",
    "aggregation.guidance.staleness": "--wrapper.staleness of --wrapper guided",
    "aggregation.guidance.loss_drop": "--wrapper.loss-drop of --wrapper guided",
    "aggregation.guidance.outlier": "--wrapper.outlier of --wrapper guided",
    "aggregation.guidance.temperature": "--wrapper.temperature of --wrapper guided",
    "attack.kind": "--attack KIND",
    "profile.source": "--wrapper.profile.source of --wrapper guided or "
    "clustered_by_profile",
    "profile.clip": "--wrapper.profile.clip",
    "profile.seed": "--wrapper.profile.seed",
    "cohort.sampling": "--cohort KIND",
    "cohort.devices": "--fleet.devices",
    "cohort.time_zones": "--fleet.time-zones",
    "cohort.device_seed": "--fleet.seed",
    "population.store": "--store.location",
    "population.folder": "--store.folder",
    "population.keep": "--store.cache",
    "protocol.watch": "--protocol.exposed-item",
    "algorithm.client_lr": "--algorithm.client-optimizer.lr (FedFM: "
    "--algorithm.training.optimizer.lr, or --algorithm.training.lr)",
    "algorithm.server_lr": "--algorithm.server-optimizer.lr",
    "algorithm.server_momentum": "--algorithm.server-optimizer.momentum",
    "algorithm.server_tau": "--algorithm.server-optimizer.tau",
    "algorithm.control": "--wrapper scaffold",
    "algorithm.clusters": "--wrapper ifca --wrapper.clusters",
    "algorithm.clustered_by": "--wrapper ifca, clustered_by_profile or "
    "clustered_by_update",
    "algorithm.warm_rounds": "--wrapper.warm-rounds of --wrapper clustered_by_update",
    "algorithm.personalized": "--wrapper fedamp",
    "algorithm.amp_sigma": "--wrapper.sigma of --wrapper fedamp",
    "algorithm.amp_mixing": "--wrapper.mixing of --wrapper fedamp",
    "algorithm.aggregation": "--aggregation KIND",
    "algorithm.weighting": "--aggregation mean --aggregation.weights",
    "algorithm.layers": "--algorithm.adapter.layers",
    "algorithm.rank": "--algorithm.adapter.rank",
    "algorithm.alpha": "--algorithm.adapter.alpha",
    "algorithm.targets": "--algorithm.adapter.targets",
    "algorithm.bottleneck": "--algorithm.adapter.size",
    "algorithm.prefix": "--algorithm.adapter.length",
    "algorithm.hidden": "--algorithm.adapter.hidden",
    "algorithm.history": "--algorithm.users.length",
    "algorithm.history_heads": "--algorithm.users.heads",
    "algorithm.shared_steps": "--algorithm.training joint or reconstruction",
    "algorithm.query": "--algorithm.training.query",
    "algorithm.local_epochs": "--algorithm.training.epochs, or "
    "--algorithm.training.steps of reconstruction",
    "algorithm.lora_aggregation": "--wrapper fedit, fedex, flora, hetlora or flexlora",
    "algorithm.ranks": "--wrapper.ranks of a wrapper for LoRA",
    "algorithm.rank_shares": "--wrapper.rank-shares of a wrapper for LoRA",
}

_VALUES = {
    "codec": {
        "int8": "--codec block_int --codec.bits 8",
        "int4": "--codec block_int --codec.bits 4",
        "global_top_k": "--codec top_k --codec.scope all",
        "top_k_qsgd": "--codec top_k+qsgd --codec.then.norm max",
        "colr": "--wrapper colr",
        "colr_touched": "--wrapper colr --wrapper.touched-only True",
        "count_sketch": "--wrapper fetch_sgd",
    },
    "aggregation": {
        "algorithm": "--aggregation none",
        "examples": "--aggregation mean",
        "uniform": "--aggregation mean --aggregation.weights uniform",
        "per_row": "--aggregation mean --aggregation.per-row True",
        "per_row_uniform": "--aggregation mean --aggregation.per-row True "
        "--aggregation.weights uniform",
        "fm_guided": "--wrapper guided",
        "update_guided": "--wrapper guided --wrapper.likeness update",
        "mixed_median": "--aggregation nnm",
        "mixed_trimmed_mean": "--aggregation nnm --aggregation.then trimmed_mean",
    },
    "algorithm.adapter": {"prefix": "--algorithm.adapter prefix_tuning"},
    "algorithm.server_optimizer": {
        "momentum": "--algorithm.server-optimizer fedavgm",
        "adam": "--algorithm.server-optimizer fedadam",
        "yogi": "--algorithm.server-optimizer fedyogi",
        "adagrad": "--algorithm.server-optimizer fedadagrad",
    },
}
_OWNERS = {
    "codec.name": "codec",
    "aggregation.rule": "aggregation",
    "split.kind": "split",
    "partition.kind": "partition",
    "attack.kind": "attack",
    "cohort.sampling": "cohort",
}


_CLASSES = {
    "Guidance": "Guided",
    "PopulationConfig": "StoreConfig",
    "ProfileConfig": "ClientProfile",
}


def new_class(name: str) -> str | None:
    """A sentence on the present form of a class of version 0.1, or `None`.

    >>> new_class("PopulationConfig")
    'PopulationConfig of version 0.1 is now StoreConfig'
    """
    if name in _CLASSES:
        return f"{name} of version 0.1 is now {_CLASSES[name]}"
    slot = name.removesuffix("Config").lower()
    if not name.endswith("Config") or slot not in set(_OWNERS.values()):
        return None
    kinds = [location.rpartition(":")[2] for location in registry.SLOTS[slot].values()]
    return (
        f"{name} of version 0.1 is now a class for each kind: "
        f"Experiment({slot}=...) takes {', '.join(kinds)}"
    )


def new_spelling(name: str, values: Sequence[str] = ()) -> str | None:
    """The present spelling of a field of version 0.1, or `None`.

    Args:
        name: dotted, with underscores.
        values: given for it.

    >>> new_spelling("codec.name", ["int8"]), new_spelling("codec.name", ["sign"])
    ('--codec block_int --codec.bits 8', '--codec sign')
    """
    owner = _OWNERS.get(name, name)
    if len(values) == 1 and owner in (*_OWNERS.values(), *_VALUES):
        value, voting = values[0], ""
        for ending, kind in (("_of_voters", "voters"), ("_diluted", "diluted")):
            if value.endswith(ending):
                value = value.removesuffix(ending)
                then = ".then" if value.startswith("mixed") else ""
                voting = f" --aggregation{then}.voting {kind}"
        known = _VALUES.get(owner, {}).get(value)
        if known is not None:
            return known + voting
        if name in _OWNERS or voting:
            return f"--{owner} {value}{voting}"
    return _FIELDS.get(name)
