"""Parts that cannot work together are refused before the data are read."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    DGC,
    IFCA,
    QSGD,
    SGD,
    SVD,
    Adam,
    Bulyan,
    CoLR,
    Execution,
    FedAdam,
    FedAMP,
    FedAvg,
    FedAvgM,
    FedFM,
    FedMF,
    FedNCF,
    FedNova,
    FetchSGD,
    Freeze,
    GeometricMedian,
    Guided,
    MatrixFactorization,
    Mean,
    Median,
    PFedRec,
    Protocol,
    RandomK,
    Reconstruction,
    RowTopK,
    Scaffold,
    Sign,
    SignFlip,
    Threshold,
    TopK,
    TrimmedMean,
    build,
)
from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.algorithms.text_path import lifted_path
from fedjax_rec.contrib.clustered_by_update import ClusteredByUpdate
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import ClientResult, Senders
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.build import decide_lift
from fedjax_rec.experiment.combine import check_settings
from fedjax_rec.simulation.messages import TRANSFORM, initial_state, send
from tests.codecs.deltas import CONTEXT, sender
from tests.experiment.test_build import SMALL, assert_round, recipe_of


@dataclasses.dataclass(frozen=True)
class Unread:
    """Data that must not be read."""

    def load(self, progress=False):
        raise AssertionError("the data were read")

    def origin(self, progress=False):
        raise AssertionError("the data were read")


def refused(**parts: Any) -> str:
    experiment = dataclasses.replace(SMALL, data=Unread(), **parts)
    with pytest.raises(ValueError) as refusal:  # noqa: PT011
        build(experiment)
    return str(refusal.value)


def refusal_of(function, *args):
    try:
        function(*args)
    except ValueError as error:
        return str(error)
    return ""


NCF = FedNCF(dim=4)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"aggregation": Median(), "codec": TopK()}, "learning would stop"),
        ({"aggregation": Median(), "codec": RandomK()}, "or whole rows (RowTopK)"),
        ({"aggregation": Bulyan(), "codec": DGC()}, "use a rule for whole deltas"),
        (
            {"aggregation": Median(), "codec": TopK(), "algorithm": FedFM()},
            "learning would stop",
        ),
        (
            {"aggregation": Median(), "wrapper": Guided(), "algorithm": FedFM()},
            "aggregation=Median and Guided exclude each other",
        ),
        (
            {"codec": TopK(), "wrapper": Guided(then=CoLR())},
            "codec=TopK and CoLR exclude each other",
        ),
        ({"codec": TopK(), "wrapper": FetchSGD()}, "determines the codec itself"),
        (
            {"codec": TopK(), "wrapper": IFCA(), "algorithm": NCF},
            "belongs to one model",
        ),
        (
            {"codec": DGC(), "algorithm": FedAvg(server_optimizer=FedAvgM())},
            "the codec has momentum of its own",
        ),
        (
            {"wrapper": FetchSGD(), "algorithm": FedAvg(server_optimizer=FedAdam())},
            "the aggregation rule has momentum of its own",
        ),
        ({"wrapper": Scaffold(), "algorithm": FedAvg(proximal=0.1)}, "SCAFFOLD"),
        (
            {
                "wrapper": CoLR(rank=5),
                "algorithm": FedNCF(dim=4, client_optimizer=SGD()),
            },
            "rank=5 is more than the width 4",
        ),
        (
            {"wrapper": CoLR(), "algorithm": FedMF(feedback="explicit")},
            "follow a basis",
        ),
        (
            {"wrapper": CoLR(), "algorithm": FedAvg(client_optimizer=Adam())},
            "plain SGD",
        ),
        ({"wrapper": FedAMP(), "algorithm": NCF}, "FedAvg with a positive proximal"),
        ({"wrapper": Freeze(groups=("mpl",)), "algorithm": NCF}, "mpl is not shared"),
        (
            {"aggregation": FedNova(), "algorithm": FedAvg(client_optimizer=Adam())},
            "steps of SGD",
        ),
        ({"protocol": Protocol(evaluated="reconstructed")}, "training=Reconstruction"),
    ],
    ids=str,
)
def test_conflicts_of_settings_are_refused_before_the_data_are_read(parts, message):
    assert message in refused(**parts)


@pytest.mark.parametrize("slot", ["aggregation", "wrapper", "codec", "attack"])
def test_what_is_refused_beforehand_is_also_refused_with_the_data(slot):
    """Sizes that stand for those of the data refuse no experiment that would run."""
    algorithms = [registry.load("algorithm", name)() for name in ("fcf", "fedavg")]
    for algorithm in (
        *algorithms,
        FedAvg(proximal=0.1),
        NCF,
        PFedRec(),
        SMALL.algorithm,
    ):
        for kind in registry.SLOTS[slot]:
            part = registry.load(slot, kind)()
            parts: Any = {"algorithm": algorithm, slot: part}
            experiment = dataclasses.replace(SMALL, **parts)
            early = refusal_of(check_settings, experiment)
            assert not early or refusal_of(recipe_of, experiment) == early


@dataclasses.dataclass(frozen=True)
class Own:
    """A system from outside of the package that knows the data."""

    num_items: int = 30
    rule: Any = Mean()
    codec: Any = None

    def build(self, context):
        if context.num_items != self.num_items:
            raise ValueError("made for another catalog")
        recipe = FedAvg(model=MatrixFactorization(dim=4), negatives=1).build(context)
        codec = None if self.codec is None else self.codec.build(context)
        rule = self.rule.build(context)
        return recipe._replace(transform=codec, aggregator=rule)


def test_systems_of_users_are_checked_when_the_data_are_there():
    check_settings(dataclasses.replace(SMALL, algorithm=Own(), codec=TopK()))
    system = Own(codec=TopK())
    both = dataclasses.replace(SMALL, algorithm=system, codec=SVD())
    with pytest.raises(ValueError, match="Own has a message transform of its own"):
        recipe_of(both)
    with pytest.raises(ValueError, match="learning would stop"):
        recipe_of(dataclasses.replace(SMALL, algorithm=system, aggregation=Median()))
    with pytest.raises(ValueError, match="learning would stop"):
        recipe_of(dataclasses.replace(both, algorithm=Own(rule=Median()), codec=TopK()))


@dataclasses.dataclass(frozen=True)
class OwnRule(Own):
    """A system that works with its own rule only."""

    brings = ("aggregation",)


def test_a_flag_does_not_replace_the_rule_of_a_system_that_needs_it():
    message = refused(algorithm=OwnRule(), aggregation=Median())
    assert "aggregation=Median and OwnRule exclude each other" in message


@pytest.mark.parametrize(
    ("rule", "codec", "fits"),
    [
        (Median(), TopK(fraction=1.0), True),
        (Median(), RowTopK(), True),
        (Median(), QSGD(), True),
        (TrimmedMean(share=0.0), TopK(), True),
        (TrimmedMean(), TopK(), False),
        (GeometricMedian(), RandomK(), True),
        (registry.load("aggregation", "nnm")(), RandomK(), True),
        (registry.load("aggregation", "meamed")(), Threshold(), False),
        (registry.load("aggregation", "majority_vote")(), TopK(), True),
    ],
    ids=str,
)
def test_rules_by_coordinate_need_messages_without_holes(rule, codec, fits):
    experiment = dataclasses.replace(SMALL, aggregation=rule, codec=codec)
    if fits:
        return check_settings(experiment)
    with pytest.raises(ValueError, match="learning would stop"):
        check_settings(experiment)


def test_the_median_of_random_numbers_never_moves():
    """The reason of the refusal, and that a quantizer does no such harm."""
    deltas = np.random.default_rng(0).normal(1.0, 0.5, (20, 60)).astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 20)

    def moved(codec):
        transform = codec.build(CONTEXT)

        def through(x, key):
            message, _ = transform.encode({"w": x}, (), sender(key))
            return transform.decode(message)["w"]

        return float(jnp.median(jax.vmap(through)(jnp.asarray(deltas), keys), 0).sum())

    assert moved(RandomK()) == 0
    assert moved(QSGD()) > 40


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        (FedFM, {"training": Reconstruction(), "batch_size": 8}),
        (FedFM, {"item_lr_scale": 2.0}),
        (FedFM, {"adapter": None, "adapter_lr_scale": 2.0}),
        (FedMF, {"feedback": "explicit", "negatives": 1}),
        (FedMF, {"item_l2": 0.1}),
    ],
)
def test_fields_without_effect_are_refused(algorithm, fields):
    with pytest.raises(ValueError, match="has no effect with"):
        algorithm(**fields)


def test_codecs_without_memory_serve_several_models():
    for wrapper in (IFCA(), ClusteredByUpdate()):
        parts: Any = {"wrapper": wrapper, "codec": QSGD(), "algorithm": NCF}
        recipe, _ = recipe_of(dataclasses.replace(SMALL, **parts))
        assert "up_bytes" in assert_round(recipe)


LOSSLESS = {
    "all top-k": TopK(fraction=1.0, scope="all", feedback="none"),
    "ef21": RandomK(fraction=1.0, feedback="ef21"),
    "rows": RowTopK(fraction=1.0),
    "dgc": DGC(fractions=(1.0,), momentum=0.0),
}
LOSSY = {"sign": Sign()}


def with_groups(recipe, fixed):
    """The recipe with the factors of LoRA among its shared groups."""
    init = recipe.model.init

    def more(key):
        params = init(key)
        factors = {"lora_a": {"q": jnp.ones((2, 6, 2))}, "lora_b": jnp.ones((2, 3))}
        return dataclasses.replace(params, shared={**params.shared, **factors})

    return recipe._replace(model=recipe.model._replace(init=more, fixed=fixed))


@functools.cache
def systems():
    """Recipes with every kind of shared group."""
    context = recipe_of(SMALL)[1]
    ncf = FedNCF(dim=4, hidden=(3,), client_optimizer=SGD()).build(context)
    head = FedFM(dim=4, adapter=None, fixed=("head",), id_residual=True)
    mf = FedMF(dim=4, negatives=1).build(context)
    scaffold = Scaffold().build(context.with_recipe(mf))
    return {
        "control variates and factors, one fixed": with_groups(scaffold, ("lora_a",)),
        "fixed table": Freeze(groups=("item",)).build(context.with_recipe(ncf)),
        "fixed head": head.on(lifted_path(6, 4), context),
    }


def received(recipe, codec):
    """The mean of three clients' deltas after a codec; the third client is absent."""
    recipe = recipe._replace(transform=None if codec is None else codec.build(CONTEXT))
    shared = recipe.model.init(jax.random.key(0)).shared
    rng = np.random.default_rng(0)
    slots = jnp.arange(3)

    def change(leaf):
        if not rows.is_table(leaf):
            return jnp.asarray(rng.normal(size=(3, *leaf.shape)), jnp.float32)
        length, *width = leaf.values.shape
        ids = jnp.asarray(rng.integers(0, length + 1, (3, 6)))  # repeats, padding
        values = jnp.asarray(rng.normal(size=(3, 6, *width)), jnp.float32)
        return rows.Rows(ids=ids, values=values, space=leaf.space)

    delta = jax.tree.map(change, shared, is_leaf=rows.is_table)
    for name in recipe.model.fixed:
        delta[name] = jax.tree.map(jnp.zeros_like, delta[name])
    result = ClientResult(
        delta=delta,
        personal={},
        weight=jnp.asarray([2.0, 1.0, 0.0]),
        metrics={"loss": jnp.zeros(3)},
    )
    states = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (3, *x.shape)), initial_state(recipe, shared)
    ).get(TRANSFORM, ())
    keys = jax.random.split(jax.random.key(1), 3)
    sent = send(recipe, shared, states, slots, result, slots, keys, keys[0]).result
    rule = weighted_mean()
    senders = Senders(slots=slots, ids=slots, loss=jnp.zeros(3))
    acc = rule.update(rule.init(shared, 3), sent.delta, sent.weight, senders)
    return rule.finish(acc, (), shared)[0]


SYSTEMS = ("control variates and factors, one fixed", "fixed table", "fixed head")


@pytest.mark.parametrize("name", SYSTEMS)
def test_lossless_codecs_are_the_identity_and_fixed_groups_stay(name):
    """For every kind of shared group. All codecs leave fixed groups at exactly zero."""
    recipe, codecs = systems()[name], {"none": None, **LOSSLESS, **LOSSY}
    outcomes = jax.jit(lambda: {n: received(recipe, c) for n, c in codecs.items()})()
    for outcome in outcomes.values():
        for group in recipe.model.fixed:
            assert not any(x.any() for x in jax.tree.leaves(outcome[group]))
    for codec in LOSSLESS:
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
            outcomes[codec],
            outcomes["none"],
        )


def test_a_system_of_a_user_with_a_codec_is_not_lifted():
    """Its codec sees the adapter, as decided from the finished recipe."""
    context = recipe_of(SMALL)[1]
    recipe = FedFM(dim=4, adapter=None, batch_size=999).on(lifted_path(6, 4), context)
    once = Execution(encode="once", max_buckets=1)
    experiment = dataclasses.replace(SMALL, execution=once)
    assert decide_lift(recipe, context, experiment)[0]
    for transform in (
        TopK().build(CONTEXT),
        SignFlip().build(context.with_recipe(recipe)),
    ):
        transform = getattr(transform, "transform", transform)
        own = recipe._replace(transform=transform)
        with pytest.raises(ValueError, match="the message transform reads each"):
            decide_lift(own, context, experiment)
        assert not decide_lift(own, context, SMALL)[0]
