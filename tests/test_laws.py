"""Laws that every algorithm, wrapper, aggregation rule, codec and model obeys.

A new entry of `experiment/registry.py` is tested here without a new test.
"""

import collections
import dataclasses
import functools
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
from fedjax_rec.backbones.settings import BackboneConfig
from fedjax_rec.clients.profile import ClientProfile
from fedjax_rec.codecs.low_rank import PowerSGD
from fedjax_rec.codecs.sparsify import TopK
from fedjax_rec.codecs.wire import is_field, num_bits
from fedjax_rec.contrib.clustered_by_update import ClusteredByUpdate
from fedjax_rec.contrib.colr import CoLR
from fedjax_rec.contrib.fedamp import FedAMP
from fedjax_rec.contrib.guided import Guided
from fedjax_rec.contrib.weights import ByParticipation, ByTrend
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Params, Senders
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
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import IID, PerUser
from fedjax_rec.data.splits import Split
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.build import decide_lift
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.corpus import Corpus
from fedjax_rec.models.adapters.embedding import EmbeddingAdapter
from fedjax_rec.models.adapters.in_layers import Bottleneck, LoRA, PrefixTuning
from fedjax_rec.models.by_id import matrix_factorization, neural_cf, personal_scorer
from fedjax_rec.simulation.messages import without_state
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, federated, round_hparams
from fedjax_rec.wrappers.clustered import IFCA, ClusteredByProfile
from fedjax_rec.wrappers.freeze import Freeze
from fedjax_rec.wrappers.lora.rules import FedEx, FlexLoRA, FLoRA, HetLoRA
from fedjax_rec.wrappers.scaffold import Scaffold
from tests.aggregators.registry import RULES
from tests.codecs.deltas import CONTEXT, sender
from tests.codecs.every_codec import CODECS
from tests.codecs.serialize import deserialize, serialize, to_bits
from tests.small_fedfm import backbone

N, I = 9, 23  # noqa: E741
SIZES = [1, 2, 3, 3, 5, 8, 9, 12, 1]
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


@functools.cache
def interactions():
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(N), SIZES)
    item = np.concatenate([rng.choice(I, s, replace=False) for s in SIZES])
    return make_interactions(
        user=user,
        item=item,
        rating=rng.integers(1, 6, len(user)).astype(np.float32),
        users=Entities(ids=[f"u{u}" for u in range(N)]),
        items=Entities(
            ids=[f"i{i}" for i in range(I)],
            titles=[" ".join(rng.choice(WORDS, 1 + i % 4)) for i in range(I)],
        ),
    )


WORDS = [f"{a}{b}" for a in ("red", "sea", "sun", "oak") for b in ("ship", "man", "s")]


@functools.cache
def corpus() -> Any:
    """A corpus of the items behind a backbone of two narrow layers."""
    made: Any = Corpus(BackboneConfig(cache=cache_folder().name), interactions())
    made._loaded = (*backbone(ffn_width=8), "")
    return made


@functools.cache
def cache_folder():
    return tempfile.TemporaryDirectory()


@functools.cache
def setup(name):
    """The recipe, whether it is lifted, and the partition."""
    encode: Any = "once" if "lifted" in name else "per_client"
    experiment = dataclasses.replace(
        EVERY_CASE[name], execution=Execution(encode=encode)
    )
    train = interactions()
    context = Context(
        num_items=I,
        num_users=N,
        num_clients=N,
        cohort_size=N,
        dtype=jnp.dtype("float32"),
        examples=np.asarray(SIZES),
        split=Split(train=train, val=train, test=train, name="none", info={}),
        clients=make_client_data(train, PerUser().partition(train), max_buckets=1),
        corpus=corpus(),
        lora_base=getattr(experiment.wrapper, "lora_base", False),
    )
    recipe = make_recipe(experiment, context)
    lifted, _ = decide_lift(recipe, context, experiment)
    partition = PerUser() if recipe.model.single_user else IID(num_clients=4, seed=5)
    return recipe, lifted, partition.partition(train)


class Run:
    """One round as a program, with a count of its traces by the cohort's size."""

    def __init__(self, name, max_buckets, chunk):
        self.recipe, lifted, partition = setup(name)
        self.frozen = self.recipe.frozen
        train = interactions()
        self.data = make_client_data(train, partition, max_buckets=max_buckets)
        self.traces: dict[int, int] = collections.Counter()
        chunks = (chunk,) * len(self.data.widths)
        algorithm = federated(self.recipe, chunks, lifted=lifted)
        self.key = jax.random.key(7)
        self.start = algorithm.init(self.key)
        n = self.data.num_clients
        self.personal = initial_personal(self.recipe, self.key, n)

        def counted(*args):
            self.traces[len(args[1].ids)] += 1
            return algorithm.round(*args)

        self.eager, self.jitted = algorithm.round, jax.jit(counted)

    def __call__(self, ids, rounds=2, jit=True, key=None, start=None):
        fn = self.jitted if jit else self.eager
        key = self.key if key is None else key
        state, personal = start or (self.start, self.personal)
        ids = jnp.asarray(ids, jnp.int32)
        metrics = {}
        for _ in range(rounds):
            cohort = Cohort(ids=ids, rows=ids, personal=personal)
            rest = (self.data, self.frozen, self.recipe.hparams, key)
            state, cohort, metrics = fn(state, cohort, *rest)
            personal = cohort.personal
        return state, personal, metrics


@functools.cache
def base(name):
    return Run(name, max_buckets=2, chunk=2)


def close(a, b, **tolerance):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), **tolerance
        ),
        a,
        b,
    )


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def marked(names):
    return [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in names]


every_case = pytest.mark.parametrize("name", marked(EVERY_CASE))


def added(weight, total, delta):
    """`total + weight delta`, of a dense leaf or of some rows of a table."""
    if not rows.is_rows(delta):
        return total + weight * np.asarray(delta)
    real = np.asarray(delta.ids) < len(total.values)
    values = total.values.copy()
    sent = weight * np.asarray(delta.values)
    np.add.at(values, np.asarray(delta.ids)[real], sent[real])
    return dataclasses.replace(total, values=values)


def mean_of(name) -> Any:
    """The mean or the sum that joins the deltas of a case."""
    experiment = CASES[name]
    algorithm: Any = experiment.algorithm
    if experiment.aggregation is not None:
        return experiment.aggregation
    if name.startswith(("fedfm", "fedavg")):
        return Mean()
    delta, weights, slots = deltas(0, 6), jnp.arange(6.0), jnp.arange(6)
    result = aggregate(algorithm.build(facts()).aggregator, [(delta, weights, slots)])
    for rule in (Mean(weights="uniform"), Sum()):
        expected = aggregate(rule.build(facts()), [(delta, weights, slots)])
        if np.allclose(result["w"], expected["w"], atol=1e-6):
            return rule
    raise AssertionError(f"{name}: expected a uniform mean or a sum")


@every_case
def test_clients_train_with_the_same_outputs_outside_of_a_round(name):
    """Tuned scores and estimates of memory need no key of a round."""
    run = base(name)
    examples = run.data.examples(jnp.int32(0), 0)
    own = without_state(at(run.personal, 0))
    params = Params(shared=run.start.shared, personal=own)
    inside = round_hparams(run.recipe.hparams, run.key, jnp.int32(0))
    results = [
        jax.eval_shape(
            run.recipe.client_update, params, run.frozen, examples, hparams, run.key
        )
        for hparams in (inside, run.recipe.hparams)
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", marked(CASES))
def test_a_round_is_a_python_loop_over_clients(name):
    """The engine against clients trained one by one and aggregated in NumPy."""
    run, rule = base(name), mean_of(name)
    by_examples = getattr(rule, "weights", "") == "examples"
    recipe, data = run.recipe, run.data
    n = data.num_clients
    state, personal, _ = run(np.arange(n), rounds=1)
    sums = jax.tree.map(np.zeros_like, run.start.shared)
    weight_sum, touched = 0.0, {}
    widest = len(data.widths) - 1

    @jax.jit
    def update(client, personal):
        key = client_key(run.key, jnp.int32(0), client)
        params = Params(shared=run.start.shared, personal=personal)
        examples = data.examples(client, widest)
        return recipe.client_update(params, run.frozen, examples, recipe.hparams, key)

    for client in range(n):
        result = update(jnp.int32(client), at(run.personal, client))
        close(at(personal, client), result.personal, atol=1e-6, rtol=1e-5)
        weight = float(result.weight) if by_examples else 1.0
        weight_sum += weight
        for part, delta in result.delta.items():
            add = functools.partial(added, weight)
            sums[part] = jax.tree.map(add, sums[part], delta, is_leaf=rows.is_table)
            if rows.is_rows(delta):
                length = len(sums[part].values)
                seen = touched.setdefault(part, np.zeros(length))
                ids = np.unique(delta.ids)
                seen[ids[ids < length]] += weight
    if rule == Sum():
        mean = sums
    else:
        mean = jax.tree.map(lambda x: x / weight_sum, sums)
        for part, seen in touched.items():
            if rule.per_row:
                mean[part] = rows.Table(
                    values=sums[part].values / np.maximum(seen, 1e-30)[:, None],
                    space=sums[part].space,
                )
    server = recipe.server_optimizer(recipe.hparams)
    moves, _ = server.update(
        jax.tree.map(lambda x: -jnp.asarray(x), mean),
        run.start.optimizer,
        run.start.shared,
    )
    expected = optax.apply_updates(run.start.shared, moves)
    close(state.shared, expected, atol=2e-5, rtol=1e-4)


@every_case
def test_chunks_order_buckets_and_absent_clients_change_nothing(name):
    run = base(name)
    n = run.data.num_clients
    expected = run(np.arange(n))
    other = Run(name, max_buckets=1, chunk=3)
    order = np.random.default_rng(1).permutation(n)
    got = other(np.concatenate([order[:2], [n], order[2:], [n + 3]]))
    close(got[0].shared, expected[0].shared, atol=2e-5, rtol=1e-3)
    close(got[1], expected[1], atol=2e-5, rtol=1e-3)
    close(got[2], expected[2], atol=1e-4, rtol=1e-3)


@every_case
def test_one_trace_same_bits_and_structure(name):
    run = base(name)
    ids = np.arange(run.data.num_clients)
    first = run(ids, rounds=3)
    same(first, run(ids, rounds=3))
    assert jax.tree.structure(first[0]) == jax.tree.structure(run.start)
    for before, after in zip(
        jax.tree.leaves((run.start, run.personal)),
        jax.tree.leaves((first[0], first[1])),
        strict=True,
    ):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    # Stopping after a round and going on is the unbroken run, bit for bit.
    once = run(ids, rounds=1)
    same(first, run(ids, rounds=2, start=once[:2]))
    if run.recipe.local.negatives:
        other = run(ids, rounds=3, key=jax.random.key(8))
        assert not np.array_equal(
            jax.tree.leaves(other[0].shared)[0], jax.tree.leaves(first[0].shared)[0]
        )
    # Those who were not invited keep what they had, and the round learned something.
    few = run(np.where(ids < 2, ids, len(ids)), rounds=1)
    same(
        jax.tree.map(lambda x: x[2:], few[1]),
        jax.tree.map(lambda x: x[2:], run.personal),
    )
    moved = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()),
        first[0].shared,
        run.start.shared,
    )
    experiment = EVERY_CASE[name]
    if getattr(experiment.algorithm, "loss", "bce") != "bce" and "head" in moved:
        # Losses that compare a user's items do not see what adds to all of them.
        assert moved["head"].pop("b") < 1e-6
        if "embedding_adapter" in moved:
            assert moved["embedding_adapter"]["up"].pop("b", 0) < 1e-6
    if isinstance(experiment.wrapper, Freeze):
        assert max(jax.tree.leaves(moved.pop("mlp"))) == 0
    if isinstance(experiment.wrapper, FLoRA):
        assert max(jax.tree.leaves(moved.pop("lora_b"))) == 0  # it restarts from zero
    assert min(jax.tree.leaves(moved)) > 0
    assert run.traces == {len(ids): 1}  # by all the laws together


@pytest.mark.parametrize("name", ["pfedrec", "fedavg user table"])
def test_jit_equals_eager(name):
    run = base(name)
    ids = np.arange(run.data.num_clients)
    close(run(ids, 1), run(ids, 1, jit=False), atol=1e-6, rtol=1e-5)


def deltas(seed, clients, with_repeats=True):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 7 if with_repeats else 6, (clients, 5))
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids), values=jnp.asarray(rng.normal(size=(clients, 5, 2)))
        ),
        "w": jnp.asarray(rng.normal(size=(clients, 3))),
    }


SHARED = {"item": rows.Table(values=jnp.zeros((6, 2))), "w": jnp.zeros(3)}


def aggregate(aggregator, groups):
    acc = aggregator.init(SHARED, 10)
    for delta, weights, slots in groups:
        senders = Senders(slots=slots, ids=slots, loss=slots * 0.1)
        acc = aggregator.update(acc, delta, weights, senders)
    return aggregator.finish(acc, aggregator.start(SHARED), SHARED)[0]


@functools.cache
def facts():
    """Ten clients, for rules that read facts about the experiment."""
    recipe, _, _ = setup("fedavg")
    return Context(
        num_items=6,
        num_users=10,
        num_clients=10,
        cohort_size=10,
        dtype=jnp.dtype("float32"),
        examples=np.arange(1, 11),
        recipe=recipe,
    )


@pytest.mark.parametrize("name", marked(RULES))
def test_rules_fold_in_any_grouping_and_ignore_weight_zero(name):
    aggregator = RULES[name].build(facts())
    delta, weights = deltas(0, 6), jnp.asarray([1.0, 0.0, 3.0, 2.0, 0.0, 1.0])
    slots = jnp.arange(6)
    whole = aggregate(aggregator, [(delta, weights, slots)])

    def pick(at):
        at = np.asarray(at)
        return jax.tree.map(lambda x: x[at], delta), weights[at], slots[at]

    parts = [pick([4, 2]), pick([0]), pick([5, 3, 1])]
    close(whole, aggregate(aggregator, parts), atol=1e-6)
    close(whole, aggregate(aggregator, [pick([0, 2, 3, 5])]), atol=1e-6)
    nobody = aggregate(aggregator, [(delta, jnp.zeros(6), slots)])
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(nobody))
    jitted = jax.jit(lambda d, w: aggregate(aggregator, [(d, w, slots)]))
    close(jitted(delta, weights), whole, atol=1e-6)


def one_delta(seed, padding=2):
    """What a client sends: 4 of 23 rows, each once, and a dense leaf."""
    rng = np.random.default_rng(seed)
    ids = np.concatenate([rng.choice(I, 4, replace=False), np.full(padding, I)])
    values = np.concatenate([rng.normal(size=(4, 3)), np.full((padding, 3), np.nan)])
    w = rng.normal(size=(5, 2))
    order = rng.permutation(4 + padding)
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids[order], jnp.int32),
            values=jnp.asarray(values[order], jnp.float32),
            num_rows=I,
        ),
        "w": jnp.asarray(w, jnp.float32),
    }


def dense_delta(delta):
    table = rows.scatter_add(jnp.zeros((I, 3)), delta["item"])
    return {"item": table, "w": delta["w"]}


CODED: dict[str, Any] = {"item": rows.Table(values=jnp.zeros((I, 3)))}
CODED["w"] = jnp.zeros((5, 2))


@functools.cache
def coded(name):
    """`(encode, decode, states)`, the states after no and after two messages."""
    codec = CODECS[name].build(CONTEXT)

    @jax.jit
    def encode(delta, state, key):
        return codec.encode(delta, state, sender(key))

    states = [codec.init(CODED)]
    for seed in (1, 2):
        states.append(encode(one_delta(seed), states[-1], jax.random.key(seed))[1])
    return codec, encode, (states[0], states[2])


codecs = pytest.mark.parametrize("name", CODECS)


@codecs
def test_codecs_send_as_many_bits_as_they_count(name):
    codec, encode, states = coded(name)
    for seed in range(4):
        message, _ = encode(one_delta(seed), states[seed % 2], jax.random.key(seed))
        assert len(to_bits(message)) == int(num_bits(message))
        read = deserialize(serialize(message), message)
        # Bytes say it all: counts that the receiver has not are not read.
        blind = jax.tree.map(
            lambda f: (
                dataclasses.replace(f, count=jnp.int32(-7), bits=jnp.uint32(0))
                if is_field(f) and f.code != "ids"
                else f
            ),
            read,
            is_leaf=is_field,
        )
        same(codec.decode(message), codec.decode(blind))


@codecs
def test_codecs_keep_structure_and_a_row_stays_that_row(name):
    codec, encode, states = coded(name)
    delta = one_delta(5)
    message, state = encode(delta, states[1], jax.random.key(0))
    decoded = codec.decode(message)
    assert jax.tree.structure(state) == jax.tree.structure(states[0])
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(states[0]), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert decoded["w"].shape == (5, 2)
    assert decoded["w"].dtype == decoded["item"].values.dtype == jnp.float32
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((decoded, state)))
    ids = np.asarray(decoded["item"].ids)
    real = ids[ids < I]
    assert set(real) <= set(np.asarray(delta["item"].ids))
    assert len(set(real)) == len(real)


@codecs
def test_padding_changes_nothing_that_codecs_send(name):
    codec, encode, states = coded(name)
    few, many = one_delta(3), one_delta(3, padding=9)
    # The same rows in another order, and more padding between them.
    a, first = encode(few, states[1], jax.random.key(0))
    b, second = encode(many, states[1], jax.random.key(0))
    assert int(num_bits(a)) == int(num_bits(b))
    close(dense_delta(codec.decode(a)), dense_delta(codec.decode(b)), atol=1e-6)
    close(first, second, atol=1e-6)


@codecs
def test_codecs_are_pure_under_jit_and_vmap(name):
    codec, encode, states = coded(name)
    keys = jax.random.split(jax.random.key(3), 3)
    batch = [one_delta(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batch)

    def through(delta, state, key):
        message, state = codec.encode(delta, state, sender(key))
        return num_bits(message), codec.decode(message), state

    together = jax.jit(jax.vmap(through, (0, None, 0)))(stacked, states[1], keys)
    for i, delta in enumerate(batch):
        message, state = encode(delta, states[1], keys[i])
        alone = num_bits(message), codec.decode(message), state
        close(at(together, i), alone, atol=1e-5)
        same(encode(delta, states[1], keys[i])[0], message)
        if i == 0:
            close(through(delta, states[1], keys[i]), alone, atol=1e-5)


@pytest.mark.parametrize("factory", [matrix_factorization, neural_cf, personal_scorer])
def test_models_mask_padding_and_score_items_by_their_own_row(factory):
    model = factory(I, dim=4)
    params = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    batch = {
        "item": jnp.asarray(rng.integers(0, I, 6)),
        "user": jnp.zeros(6, jnp.int32),
        "label": jnp.asarray([1.0, 0, 0, 1, 0, 1]),
        "mask": jnp.asarray([True, True, False, True, False, True]),
    }
    grad = jax.jit(
        jax.value_and_grad(lambda p, b: model.loss(p, (), b, jax.random.key(0), {})[0])
    )
    kept = {k: v[np.asarray(batch["mask"])] for k, v in batch.items()}
    close(grad(params, batch), grad(params, kept), atol=1e-6)
    nothing = {**batch, "mask": jnp.zeros(6, bool)}
    value, gradient = grad(params, nothing)
    assert float(value) == 0
    assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(gradient))
    query = {"user": jnp.int32(0)}
    every = model.score(params, (), query, None)
    assert every.shape == (I,)
    at = jnp.asarray([3, 3, 0, I - 1])
    close(model.score(params, (), query, at), every[at], atol=1e-6)
    table = params.shared["item"]
    changed = rows.Table(values=table.values.at[5].set(9.0), space=table.space)
    other = model.score(
        Params(shared={**params.shared, "item": changed}, personal=params.personal),
        (),
        query,
        None,
    )
    assert np.flatnonzero(np.asarray(other != every)).tolist() == [5]
