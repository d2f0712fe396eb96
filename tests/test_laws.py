"""Laws that every algorithm, wrapper, aggregation rule, codec and model obeys.

A new entry of `experiment/registry.py` is tested here without a new test.
"""

import contextlib
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest

from fedjax_rec import (
    Execution,
    Experiment,
    MatrixFactorization,
    NeuralCF,
    PersonalScorer,
    SyntheticData,
)
from fedjax_rec.aggregators.losses import Agnostic
from fedjax_rec.aggregators.means import Mean, Sum
from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.algorithms.fedfm_parts import (
    History,
    Joint,
    Reconstruction,
    VectorAndHistory,
)
from fedjax_rec.algorithms.fedmf import FedMF
from fedjax_rec.algorithms.implicit import FedNCF, PFedRec
from fedjax_rec.clients.profile import ClientProfile
from fedjax_rec.codecs.low_rank import PowerSGD
from fedjax_rec.codecs.sparsify import TopK
from fedjax_rec.contrib.clustered_by_update import ClusteredByUpdate
from fedjax_rec.contrib.colr import CoLR
from fedjax_rec.contrib.fedamp import FedAMP
from fedjax_rec.contrib.guided import Guided
from fedjax_rec.contrib.weights import ByParticipation, ByTrend
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Params
from fedjax_rec.core.optimizers import (
    SGD,
    Adagrad,
    Adam,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
    Momentum,
)
from fedjax_rec.experiment import registry
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.adapters.in_layers import Bottleneck, LoRA, PrefixTuning
from fedjax_rec.models.by_id import matrix_factorization, neural_cf, personal_scorer
from fedjax_rec.testing import codecs, decoded, loop, models, rules, systems, world
from fedjax_rec.testing.compare import check_close
from fedjax_rec.testing.law import NotApplicable
from fedjax_rec.testing.system import System
from fedjax_rec.wrappers.clustered import IFCA, ClusteredByProfile
from fedjax_rec.wrappers.freeze import Freeze
from fedjax_rec.wrappers.lora.rules import FedEx, FlexLoRA, FLoRA, HetLoRA
from fedjax_rec.wrappers.scaffold import Scaffold
from tests.aggregators.registry import RULES
from tests.codecs.every_codec import CODECS
from tests.examples import example

I = world.NUM_ITEMS  # noqa: E741
SMALL: dict[str, Any] = {"dim": 4, "batch_size": 8, "negatives": 2}
FM: dict[str, Any] = {
    **SMALL,
    "adapter": LoRA(rank=2),
    "training": Joint(optimizer=SGD(lr=0.2)),
    "user_lr": 0.2,
}
# All pairs of a client in one batch, as training through all items' vectors needs.
WHOLE: dict[str, Any] = {**FM, "batch_size": 99}


RECONSTRUCTED = {name: x for name, x in FM.items() if name != "batch_size"}


def case(algorithm, **parts):
    return Experiment(name="laws", data=SyntheticData(), algorithm=algorithm, **parts)


def small(name):
    """An algorithm of the registry, with those fields of `SMALL` that it has."""
    cls = registry.load("algorithm", name)
    names = {field.name for field in dataclasses.fields(cls)}
    values = {**SMALL, "model": MatrixFactorization(dim=4)}
    return cls(**{field: value for field, value in values.items() if field in names})


def averaged(model=MatrixFactorization, users=None, **fields):
    """A small FedAvg."""
    more = {} if users is None else {"users": users}
    return FedAvg(model=model(dim=4, **more), batch_size=8, negatives=2, **fields)


def steps(count, **more):
    return Reconstruction(steps=count, lr=0.2, **more)


CASES = {
    name: case(small(name)) for name in registry.SLOTS["algorithm"] if name != "fedfm"
} | {
    "fedncf": case(FedNCF(**SMALL, averaging="plain")),
    "fedncf, as published": case(FedNCF(**SMALL), aggregation=Mean(per_row=True)),
    "fedmf explicit": case(FedMF(dim=4, feedback="explicit")),
    "system with a personal table": case(example("fedrap").FedRAP(**SMALL)),
    "fedavg two epochs, prox, momentum, yogi": case(
        averaged(
            local_epochs=2,
            proximal=0.1,
            client_optimizer=Momentum(lr=0.1),
            server_optimizer=FedYogi(lr=0.01),
        ),
        aggregation=Mean(),
    ),
    "fedavg adam, ncf, adagrad": case(
        averaged(
            model=NeuralCF,
            client_optimizer=Adam(lr=0.01),
            server_optimizer=FedAdagrad(lr=0.1),
        ),
        aggregation=Mean(weights="uniform"),
    ),
    "fedavg local adagrad": case(averaged(client_optimizer=Adagrad())),
    "fedavg ncf, scaffold": case(
        averaged(model=NeuralCF, local_epochs=2, client_optimizer=SGD(lr=0.1)),
        aggregation=Mean(weights="uniform"),
        wrapper=Scaffold(),
    ),
    "fedavg user table": case(
        averaged(
            users="table",
            server_optimizer=FedAvgM(),
        )
    ),
    "fedavg scorer, sum, adam": case(
        averaged(model=PersonalScorer, server_optimizer=FedAdam()),
        aggregation=Sum(),
    ),
    "fedfm": case(FedFM(**FM)),  # suffix LoRA, several steps
    "fedfm lifted full lora, bce": case(
        FedFM(**{**WHOLE, "adapter": LoRA(rank=2, layers=0)}, loss="bce", user_l2=0.1)
    ),
    "fedfm lifted embedding, bpr, reconstruction": case(
        FedFM(
            **{
                **RECONSTRUCTED,
                "adapter": EmbeddingAdapter(rank=2),
                "training": steps(3),
            },
            loss="bpr",
        )
    ),
    "fedfm lifted bottleneck, ids, per row": case(
        FedFM(**{**WHOLE, "adapter": Bottleneck(size=3)}, id_residual=True),
        aggregation=Mean(per_row=True),
    ),
    "fedfm prefix, momentum": case(
        FedFM(
            **{
                **FM,
                "adapter": PrefixTuning(length=2),
                "training": Joint(optimizer=Momentum(lr=0.2)),
            }
        ),
        aggregation=Mean(weights="uniform"),
    ),
    "fedfm fedsa": case(FedFM(**FM, personal=("lora_b",))),
    "fedfm personal lora": case(FedFM(**FM, personal=("lora_a", "lora_b"))),
    "fedfm scaffold": case(
        FedFM(**{**FM, "training": Joint(epochs=2, optimizer=SGD(lr=0.2))}),
        aggregation=Mean(weights="uniform"),
        wrapper=Scaffold(),
    ),
    "fedfm lifted personal head": case(FedFM(**WHOLE, personal=("head",))),
    "fedfm lifted history of many users": case(FedFM(**WHOLE, users=History(length=4))),
    "fedfm both, ids, reconstruction, query": case(
        FedFM(
            **{
                **RECONSTRUCTED,
                "adapter": EmbeddingAdapter(rank=2, hidden=3),
                "training": steps(2, query=0.4),
            },
            users=VectorAndHistory(length=4),
            id_residual=True,
        )
    ),
}
# Aggregates that the loop over clients below does not compute.
OTHER_RULES = {
    "fedfm fedex": case(FedFM(**FM), wrapper=FedEx()),
    "fedfm flora, mixed ranks": case(
        FedFM(**FM), wrapper=FLoRA(ranks=(1, 2), weights="uniform")
    ),
    "fedfm flexlora, mixed ranks, ids": case(
        FedFM(**FM, id_residual=True), wrapper=FlexLoRA(ranks=(1, 2))
    ),
    "fedfm hetlora, reconstruction": case(
        FedFM(**{**RECONSTRUCTED, "training": steps(1)}), wrapper=HetLoRA(ranks=(1, 2))
    ),
    "pfedrec, top-k with feedback": case(PFedRec(**SMALL), codec=TopK()),
    "fedncf, frozen mlp": case(
        FedNCF(**SMALL, client_optimizer=SGD(lr=0.1)), wrapper=Freeze(groups=("mlp",))
    ),
    "fedncf, colr": case(
        FedNCF(**SMALL, client_optimizer=SGD(lr=0.1)), wrapper=CoLR(rank=2)
    ),
    "fedfm, power sgd": case(FedFM(**FM), codec=PowerSGD(rank=1)),
    "fedavg, guided by updates": case(
        averaged(), wrapper=Guided(likeness="update", sketch=64)
    ),
    "fedavg, trend": case(averaged(), aggregation=ByTrend()),
    "fedavg, participation": case(averaged(), aggregation=ByParticipation(longest=2)),
    "fedncf, agnostic": case(FedNCF(**SMALL), aggregation=Agnostic(groups=3)),
    "fedavg of two clusters": case(averaged(), wrapper=IFCA()),
    "fedavg of two clusters by update": case(
        averaged(), wrapper=ClusteredByUpdate(warm_rounds=1, sketch=32)
    ),
    "fedavg of two clusters by profile": case(
        averaged(),
        wrapper=ClusteredByProfile(profile=ClientProfile(source="random")),
    ),
    "fedavg ncf prox, fedamp": case(
        averaged(model=NeuralCF, proximal=0.1), wrapper=FedAMP(sigma=0.5)
    ),
}
# Cases whose parts other cases have as well.
SLOW = {
    "fedfm flora, mixed ranks",
    "fedfm flexlora, mixed ranks, ids",
    "fedfm hetlora, reconstruction",
    "fedfm personal lora",
    "fedfm lifted personal head",
    "fedavg adam, ncf, adagrad",
    "fedavg local adagrad",
    "fedavg scorer, sum, adam",
    "fedfm prefix, momentum",
    "fedfm fedsa",
    "fedfm lifted bottleneck, ids, per row",
    "fedfm lifted history of many users",
    "fedavg of two clusters by profile",
    "fedavg ncf prox, fedamp",
    "fedavg of two clusters by update",
    "fedavg, trend",
    "fedavg, participation",
    "fedfm lifted full lora, bce",
    "fedfm fedex",
    "mean per row uniform",
    "by_size",
    "by_effective_number",
    "multi_krum",
    "nnm",
    "trimmed mean of voters",
    "geometric median of voters",
    "median diluted",
    "trimmed mean diluted",
}
EVERY_CASE = CASES | OTHER_RULES


def still(name):
    """Shared parameters of a case that do not move, but for rounding."""
    experiment = EVERY_CASE[name]
    bounds = {}
    if getattr(experiment.algorithm, "loss", "bce") != "bce":
        # Losses that compare a user's items do not see what adds to all of them.
        bounds |= {"head.b": 1e-6, "embedding_adapter.up.b": 1e-6}
    if isinstance(experiment.wrapper, Freeze):
        bounds["mlp"] = 0
    if isinstance(experiment.wrapper, FLoRA):
        bounds["lora_b"] = 0  # it restarts from zero
    return bounds


@functools.cache
def system(name):
    """The system of a case, as the laws examine it."""
    encode: Any = "once" if "lifted" in name else "per_client"
    return System(
        dataclasses.replace(EVERY_CASE[name], execution=Execution(encode=encode)),
        still=still(name),
        rule=mean_of(name) if name in CASES else None,
    )


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in names]


every_case = pytest.mark.parametrize("name", marked(EVERY_CASE))


def mean_of(name) -> Any:
    """The mean or the sum that joins the deltas of a case."""
    experiment = CASES[name]
    algorithm: Any = experiment.algorithm
    if experiment.aggregation is not None:
        return experiment.aggregation
    if name.startswith(("fedfm", "fedavg")):
        return Mean()
    rule = loop.find_mean(algorithm.build(world.context()).aggregator)
    assert rule in (Mean(weights="uniform"), Sum())
    return rule


@every_case
def test_clients_train_with_the_same_outputs_outside_of_a_round(name):
    systems.same_outputs_outside_of_a_round(system(name))


@pytest.mark.parametrize("name", marked(CASES))
def test_a_round_is_a_python_loop_over_clients(name):
    systems.round_is_a_loop_over_clients(system(name))


@every_case
def test_chunks_order_buckets_and_absent_clients_change_nothing(name):
    systems.chunks_order_buckets_and_absent_clients_change_nothing(system(name))


SEPARATE = (
    systems.same_outputs_outside_of_a_round,
    systems.round_is_a_loop_over_clients,
    systems.chunks_order_buckets_and_absent_clients_change_nothing,
)


@every_case
def test_every_other_law_of_systems(name):
    separate = SEPARATE
    if name not in registry.SLOTS["algorithm"]:
        separate += (systems.builds_the_same_twice,)
    for law in systems.LAWS:
        if law not in separate:
            with contextlib.suppress(NotApplicable):
                law(system(name))


@pytest.mark.parametrize("name", ["pfedrec", "fedavg user table"])
def test_jit_equals_eager(name):
    run = system(name).base
    eager = run(run.everyone, 1, jit=False)
    check_close(run(run.everyone, 1), eager, "jit", atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", marked(RULES))
def test_every_law_of_rules(name):
    rule = rules.Rule(RULES[name])
    for law in rules.LAWS:
        with contextlib.suppress(NotApplicable):
            law(rule)


@functools.cache
def codec(name):
    return codecs.Codec(CODECS[name])


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    "law", codecs.LAWS + decoded.LAWS, ids=lambda law: law.__name__
)
def test_every_law_of_codecs(law, name):
    with contextlib.suppress(NotApplicable):
        law(codec(name))


@pytest.mark.parametrize("factory", [matrix_factorization, neural_cf, personal_scorer])
def test_every_law_of_models(factory):
    model = models.Examined(factory(I, dim=4), I)
    for law in models.LAWS_OF_MODELS:
        law(model)
    table = model.params.shared["item"]
    changed = rows.Table(values=table.values.at[5].set(9.0), space=table.space)
    params = Params(
        shared={**model.params.shared, "item": changed}, personal=model.params.personal
    )
    differ = model.score(params) != model.score(model.params)
    assert np.flatnonzero(np.asarray(differ)).tolist() == [5]
