"""Systems that test_mesh.py compares across devices, and the places they run in."""

import dataclasses
from typing import Any

from fedjax_rec import (
    SGD,
    Adam,
    BackboneConfig,
    BlockInt,
    EmbeddingAdapter,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    FedMF,
    FedNCF,
    Guided,
    MatrixFactorization,
    MeshConfig,
    PFedRec,
    Protocol,
    StoreConfig,
    SyntheticData,
    TopK,
    TrimmedMean,
    Uniform,
    paper_compat,
)
from fedjax_rec.experiment import registry

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=14, num_items=24, num_interactions=170),
    algorithm=FedAvg(
        model=MatrixFactorization(dim=4),
        negatives=1,
        batch_size=8,
        client_optimizer=SGD(lr=5.0),
    ),
    execution=Execution(max_buckets=1),
    mesh=MeshConfig(devices=1),
    rounds=3,
    eval_every=3,
    seed=5,
)
TEXTS = FedFM(
    dim=4, negatives=2, user_lr=0.5, batch_size=999, adapter=EmbeddingAdapter(rank=2)
)


def change(experiment=SMALL, **fields: Any) -> Experiment:
    return dataclasses.replace(experiment, **fields)


PLACES = {
    "four": {"mesh": MeshConfig(devices=4)},
    "four, tables in two parts": {"mesh": MeshConfig(devices=4, items=2)},
    "four, backbone in two parts": {"mesh": MeshConfig(devices=4, model=2)},
    "host": {"store": StoreConfig(location="host")},
    "four, disk": {
        "mesh": MeshConfig(devices=4), "store": StoreConfig(location="disk")
    },
}  # fmt: skip

# Each way to aggregate, to lift, to keep state, to send messages and to place arrays.
FEW = {
    "pfedrec, top-k with feedback": (
        change(
            algorithm=PFedRec(dim=4, negatives=1, batch_size=8),
            codec=TopK(),
            cohort=Uniform(size=9),
        ),
        ("four", "four, disk"),
    ),
    "fedavg, guided": (
        change(
            wrapper=Guided(likeness="update", sketch=64),
            execution=Execution(max_buckets=2),
        ),
        ("four, tables in two parts",),
    ),
    "fedfm, items encoded once": (
        change(
            # Embeddings of 160 items are large enough to be split.
            data=SyntheticData(num_users=14, num_items=160, num_interactions=170),
            algorithm=TEXTS,
            backbone=BackboneConfig(name="tiny"),
            execution=Execution(max_buckets=1, encode="once"),
        ),
        ("four, backbone in two parts",),
    ),
}
ROUNDS_ONLY = ("fedavg, guided",)
"""Systems whose evaluation is that of others."""

SIDE_BY_SIDE = change(
    algorithm=FedMF(dim=4, feedback="explicit"), rounds=2, eval_every=2
)
"""An experiment of which three run side by side on one and on two devices."""

FM = {
    "algorithm": FedFM(dim=4, negatives=2, user_lr=0.5, batch_size=8),
    "backbone": BackboneConfig(name="tiny"),
}
MORE = {
    "fedavg, trimmed mean of voters, int8": (
        change(aggregation=TrimmedMean(voting="voters"), codec=BlockInt()),
        ("four",),
    ),
    "ratings": (
        change(algorithm=FedMF(dim=4, feedback="explicit", client_lr=0.01)),
        ("four", "host"),
    ),
    "tuned": (change(protocol=paper_compat(num_candidates=8)), ("four", "host")),
    "fedncf": (
        change(algorithm=FedNCF(
                dim=4, client_optimizer=Adam(lr=0.05), negatives=1, batch_size=8
            )), ("four",)
    ),
    "lora": (change(**FM), ("four", "four, backbone in two parts", "host")),
    "full ranking, tuned": (
        change(protocol=Protocol(evaluated="tuned")), ("four", "host")
    ),
}  # fmt: skip


def _registered() -> dict[str, tuple[Experiment, tuple[str, ...]]]:
    """Every rule, codec and wrapper of the registry at its defaults."""
    systems = {}
    for slot in ("aggregation", "codec", "wrapper"):
        for kind in registry.SLOTS[slot]:
            part = registry.load(slot, kind)()
            if kind == "majority_vote":  # a move that the test can see
                part = dataclasses.replace(part, step=0.01)
            fields: dict[str, Any] = {slot: part}
            if slot == "wrapper" and kind in LORA:
                fields |= FM
            if kind == "clustered_by_profile":
                fields["backbone"] = BackboneConfig(name="tiny")
            if kind == "freeze":  # with a group that goes on to train
                sgd = SGD(lr=0.1)
                fields["algorithm"] = FedNCF(
                    dim=4, hidden=(4,), negatives=1, client_optimizer=sgd
                )
            if kind == "fedamp":
                fields["algorithm"] = dataclasses.replace(SMALL.algorithm, proximal=0.1)
            if kind == "flexlora":  # later rounds magnify rounding by singular vectors
                fields |= {"rounds": 1, "eval_every": 1}
            systems[f"{slot} {kind}"] = (change(**fields), ("four",))
    return systems


LORA = ("fedit", "fedex", "flora", "hetlora", "flexlora")
MORE |= _registered()
