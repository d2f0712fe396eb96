"""Experiments become systems: every kind, and combinations that do not fit."""

import ast
import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    ALIE,
    DGC,
    IFCA,
    IID,
    SVD,
    Agnostic,
    Boost,
    ClientProfile,
    ClusteredByProfile,
    ClusteredByUpdate,
    CoLR,
    Execution,
    Experiment,
    FedAMP,
    FedAvg,
    FedEx,
    FedFM,
    FedMF,
    FedNova,
    FetchSGD,
    FlexLoRA,
    Guided,
    Joint,
    Krum,
    LoRA,
    MatrixFactorization,
    Mean,
    Median,
    Noise,
    PFedRec,
    Protocol,
    QFedAvg,
    Reconstruction,
    Scaffold,
    SignFlip,
    SyntheticData,
    TopK,
    Uniform,
    build,
)
from fedjax_rec.algorithms.text_path import lifted_path
from fedjax_rec.core.optimizers import Adam, Momentum
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.build import (
    decide_lift,
    make_context,
)
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.experiment.prepared import load_prepared
from fedjax_rec.fleet.costs import make_participants
from fedjax_rec.simulation.chunks import default_examples_per_chunk
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import federated
from tests.experiment.embedded import EMBEDDING, Embedded

ROOM = "fedjax_rec.experiment"
ROOT = Path(__file__).resolve().parents[2] / "fedjax_rec" / "experiment"
SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=FedMF(dim=4, feedback="explicit"),
    execution=Execution(max_buckets=1),
    cohort=Uniform(size=10),
    rounds=2,
    eval_every=2,
)
PLAIN_SGD = PFedRec(dim=4, negatives=1)


@functools.cache
def loaded():
    return SMALL.data.load()


@functools.cache
def prepared():
    return load_prepared(SMALL, loaded())


def recipe_of(experiment):
    """The system of an experiment on `SMALL`'s data, and its context."""
    context = make_context(experiment, prepared())
    context = dataclasses.replace(context, corpus=Embedded())
    return make_recipe(experiment, context), context


def made(**changes: Any):
    return recipe_of(dataclasses.replace(SMALL, **changes))[0]


def simulation(**changes: Any):
    def with_texts(experiment, context):
        context = dataclasses.replace(context, corpus=Embedded())
        return make_recipe(experiment, context)

    experiment = dataclasses.replace(SMALL, **changes)
    return build(experiment, data=loaded(), recipe_of=with_texts)


def round_shapes(recipe):
    """A round by shape, before and after: it is traced, not compiled."""
    data = jax.tree.map(jnp.asarray, prepared().clients)
    algorithm = federated(recipe, (5,) * len(data.buckets))
    ids, key = jnp.arange(10, dtype=jnp.int32), jax.random.key(0)
    personal = jax.eval_shape(lambda: initial_personal(recipe, key, 24))
    state = jax.eval_shape(algorithm.init, key)

    def one_round(state, personal):
        cohort = Cohort(ids=ids, rows=ids, personal=personal)
        return algorithm.round(state, cohort, data, (), recipe.hparams, key)

    return (state, personal), jax.eval_shape(one_round, state, personal)


def assert_round(recipe):
    """A round keeps the structure of its state; returns the names of its metrics."""
    (state, personal), (new_state, cohort, metrics) = round_shapes(recipe)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)
    assert jax.tree.structure(cohort.personal) == jax.tree.structure(personal)
    assert all(x.shape == () for x in metrics.values())
    return metrics.keys()


@functools.cache
def up_bytes(codec, wrapper=None):
    """Bytes that each class of clients sends, priced before any round."""
    recipe = made(codec=codec, wrapper=wrapper, algorithm=PLAIN_SGD)
    participants = make_participants(
        SMALL.cohort, SMALL.fleet, recipe, prepared().holdings, 30
    )
    return np.asarray(participants.sampler.tables[1].up)


@pytest.mark.parametrize("kind", registry.SLOTS["codec"])
def test_every_codec_goes_through_a_round(kind):
    codec = registry.load("codec", kind)()
    if hasattr(codec, "rank"):
        codec = dataclasses.replace(codec, rank=2)
    assert "up_bytes" in assert_round(made(codec=codec))


@pytest.mark.parametrize(
    "kind", ["bf16", "block_int", "qsgd", "sign", "top_k", "drive"]
)
def test_codecs_are_priced_beforehand(kind):
    up = up_bytes(registry.load("codec", kind)())
    assert (up > 0).all()
    assert (up < 0.65 * up_bytes(None)).all()


@pytest.mark.parametrize(
    ("kind", "then"),
    [("top_k", then) for then in registry.SLOTS["codec.then"]]
    + [(kind, "qsgd") for kind in ("row_top_k", "random_k", "threshold", "dgc")],
)
def test_codecs_that_select_are_followed_by_quantizers(kind, then):
    codec = registry.load("codec", kind)(then=registry.load("codec.then", then)())
    assert "up_bytes" in assert_round(made(codec=codec))


def test_wrappers_that_compress_are_priced_beforehand():
    # Every one of 30 rows, 2 numbers of 4 bytes; 5 rows of 50 counters.
    np.testing.assert_allclose(up_bytes(None, CoLR(rank=2)), 30 * 2 * 4)
    np.testing.assert_allclose(up_bytes(None, FetchSGD(columns=50)), 5 * 50 * 4)
    for wrapper in (
        CoLR(rank=2),
        CoLR(rank=2, touched_only=True),
        FetchSGD(columns=50),
    ):
        recipe = made(wrapper=wrapper, algorithm=PLAIN_SGD)
        assert "up_bytes" in assert_round(recipe)


def test_deltas_without_a_codec_are_not_counted_in_rounds():
    assert "up_bytes" not in assert_round(made())


VOTING = ("dense", "voters", "diluted")
RULES = [
    rule
    for kind in registry.SLOTS["aggregation"]
    for cls in [registry.load("aggregation", kind)]
    for rule in (
        [cls(voting=voting) for voting in VOTING]
        if hasattr(cls(), "voting")
        else [cls()]
    )
]
RULES += [Mean(weights="uniform"), Mean(per_row=True)]
RULES += [Mean(weights="uniform", per_row=True)]
RULES += [
    registry.load("aggregation", "nnm")(then=then(voting=voting))
    for then in (Median, registry.load("aggregation", "trimmed_mean"))
    for voting in VOTING
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_goes_through_a_round(rule):
    algorithm = FedMF(dim=4, negatives=1) if isinstance(rule, FedNova) else None
    assert_round(made(aggregation=rule, algorithm=algorithm or SMALL.algorithm))


@pytest.mark.parametrize("likeness", ["profile", "update"])
def test_guided_weights_go_through_a_round(likeness):
    assert_round(made(wrapper=Guided(likeness=likeness)))


def test_numbers_that_rules_read_are_counted():
    """Profiles, and the losses of rules that weigh by them; 4 bytes each."""
    plain = up_bytes(None)
    constants = made(wrapper=Guided()).constants
    assert constants is not None
    (width,) = {x.shape[1] for x in constants.values()}
    by_profile = up_bytes(None, Guided())
    np.testing.assert_allclose(by_profile - plain, 4 * width, rtol=1e-5)
    loss = up_bytes(None, Guided(likeness="update", loss_drop=1.0))
    np.testing.assert_allclose(loss - plain, 4, rtol=1e-3)
    np.testing.assert_array_equal(up_bytes(None, Guided(likeness="update")), plain)
    coded = made(codec=TopK(), wrapper=Guided())
    assert coded.aggregator.numbers == width
    assert made(aggregation=QFedAvg(lipschitz=1.0)).aggregator.numbers == 1


@pytest.mark.parametrize("attack", [SignFlip(), Noise(), Boost(), ALIE()], ids=repr)
@pytest.mark.parametrize("codec", [None, TopK()], ids=repr)
def test_every_attack_goes_through_a_round(attack, codec):
    recipe = made(attack=attack, codec=codec)
    assert_round(recipe)
    if isinstance(attack, ALIE):
        assert_round(made(attack=attack, codec=codec, aggregation=Krum()))
    counts = np.bincount(prepared().split.train.item, minlength=30)
    exposed = recipe.notes.get("exposed_item", -1)
    assert exposed == (counts.argmin() if isinstance(attack, Boost) else -1)


def test_the_boosted_item_is_the_one_that_is_watched():
    assert simulation(attack=Boost(item=4)).protocol.exposed_item == 4
    own = simulation(attack=Boost(item=4), protocol=Protocol(exposed_item=7))
    assert own.protocol.exposed_item == 7


def test_profiles_by_hand():
    """Each client's mean over its training items, less the catalog's, clipped."""
    result = simulation(wrapper=Guided(profile=ClientProfile(clip=0.5)))
    train = result.split.train
    centered = EMBEDDING - EMBEDDING.mean(0)
    assert result.recipe.constants is not None
    profiles = result.recipe.constants["profile"]
    for client in range(24):
        (user,) = np.flatnonzero(result.client_of_user == client)[:1]
        mean = centered[train.item[train.user == user]].mean(0)
        mean *= min(1, 0.5 / np.linalg.norm(mean))
        np.testing.assert_allclose(profiles[client], mean, atol=1e-6)
    assert np.linalg.norm(profiles, axis=1).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(result.personal["profile"], profiles)


def test_null_controls_keep_lengths_and_every_client_has_another_profile():
    context = recipe_of(SMALL)[1]
    text, random, shuffled = (
        np.asarray(ClientProfile(source=source, clip=9.0).vectors(context))
        for source in ("text", "random", "shuffled")
    )
    norms = [np.linalg.norm(x, axis=1) for x in (text, random, shuffled)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
    assert sorted(map(tuple, text)) == sorted(map(tuple, shuffled))
    assert (np.abs(text - shuffled).max(1) > 1e-6).all()
    cosine = (text * random).sum(1) / norms[0] ** 2
    assert abs(cosine.mean()) < 3 / np.sqrt(6 * 24)  # sd of one is 1 / sqrt(6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"aggregation": Median(), "wrapper": FetchSGD()},
            "aggregation=Median and FetchSGD exclude each other",
        ),
        (
            {"aggregation": Mean(), "wrapper": Guided(likeness="update")},
            "aggregation=Mean and Guided exclude each other",
        ),
        (
            {"aggregation": Median(), "wrapper": FedAMP()},
            "aggregation=Median and FedAMP exclude each other",
        ),
        ({"wrapper": IFCA(), "codec": TopK()}, "the delta of one of several models"),
        ({"wrapper": FedAMP(), "codec": TopK()}, "codec=TopK and FedAMP exclude"),
        (
            {"wrapper": CoLR(rank=2), "codec": TopK(), "algorithm": PLAIN_SGD},
            "codec=TopK and CoLR exclude each other",
        ),
        ({"wrapper": FetchSGD(), "codec": TopK()}, "codec=TopK and FetchSGD exclude"),
        ({"wrapper": CoLR(rank=9), "algorithm": PLAIN_SGD}, "rank=9"),
        (
            {
                "wrapper": CoLR(rank=2),
                "algorithm": FedAvg(
                    model=MatrixFactorization(dim=4), client_optimizer=Adam(lr=0.01)
                ),
            },
            "plain SGD",
        ),
        (
            {
                "attack": Boost(),
                "algorithm": FedAvg(
                    model=MatrixFactorization(dim=4, users="table"),
                ),
                "partition": IID(num_clients=10),
            },
            "none of the shape",
        ),
        ({"attack": Boost(item=30)}, "item=30"),
        ({"aggregation": Krum(share=0.45)}, "needs at least 2 f"),
        ({"protocol": Protocol(exposed_item=30)}, "and there are 30 items"),
        (
            {
                "aggregation": FedNova(),
                "algorithm": FedAvg(
                    model=MatrixFactorization(dim=4), client_optimizer=Adam()
                ),
            },
            "steps of SGD",
        ),
        (
            {
                "aggregation": FedNova(),
                "algorithm": FedAvg(model=MatrixFactorization(dim=4), proximal=0.1),
            },
            "steps of SGD",
        ),
        (
            {"aggregation": QFedAvg(), "algorithm": PFedRec(dim=4, client_lr=0.0)},
            "set lipschitz",
        ),
        ({"aggregation": Agnostic(groups=25)}, "there are 24 clients"),
        ({"protocol": Protocol(evaluated="reconstructed")}, "training=Reconstruction"),
        ({"partition": IID(num_clients=5)}, "the partition hold several users"),
        (
            {
                "partition": IID(num_clients=10),
                "algorithm": FedAvg(
                    model=MatrixFactorization(dim=4, users="table"),
                ),
                "protocol": Protocol(evaluated="tuned"),
            },
            "needs one client per user",
        ),
        ({"wrapper": FedEx()}, "LoRA"),
        (
            {
                "wrapper": Scaffold(),
                "algorithm": FedAvg(model=MatrixFactorization(dim=4), proximal=0.1),
            },
            "SCAFFOLD corrects several steps of plain SGD",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_parts_that_do_not_fit_together_say_so(changes, message):
    with pytest.raises(ValueError, match=message):  # noqa: PT012
        experiment = dataclasses.replace(SMALL, **changes)

        def with_texts(experiment, context):
            context = dataclasses.replace(context, corpus=Embedded())
            recipe = make_recipe(experiment, context)
            round_shapes(recipe)  # low-rank training looks at the phases
            return recipe

        build(experiment, data=loaded(), recipe_of=with_texts)


def test_profiles_need_texts():
    context = dataclasses.replace(recipe_of(SMALL)[1], corpus=None)
    for wrapper in (Guided(), ClusteredByProfile()):
        experiment = dataclasses.replace(SMALL, wrapper=wrapper)
        with pytest.raises(ValueError, match="computed from the items' texts"):
            make_recipe(experiment, context)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopK(fraction=0.0), "share must be between"),
        (lambda: SVD(rank=0), "rank must be at least 1"),
        (lambda: DGC(momentum=1.0), "momentum"),
        (lambda: Krum(share=0.5), "share"),
        (lambda: SignFlip(share=1.5), "share"),
        (lambda: Noise(scale=0.0), "scale"),
        (lambda: Boost(popular=0), "popular"),
        (lambda: ClientProfile(clip=0.0), "profile.clip must be positive"),
        (lambda: ClientProfile(source="name"), "profile.source='name'"),  # pyright: ignore
        (lambda: registry.load("aggregation", "by_trend")(temperature=-1.0), "temper"),
    ],
)
def test_absurd_settings_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("algorithm", "steps", "momentum"),
    [
        (FedAvg(batch_size=4, negatives=1, local_epochs=3), 15, 0),
        (FedAvg(batch_size=4, negatives=1, client_optimizer=Momentum()), 5, 0.9),
        (FedMF(feedback="explicit"), 10, 0),
        (FedFM(adapter=None, batch_size=4, negatives=1), 5, 0),
        (FedFM(adapter=None, batch_size=5, negatives=2), 10, 0),  # in groups
        (FedFM(adapter=None, training=Reconstruction(steps=4)), 1, 0),
        (
            FedFM(adapter=None, batch_size=4, negatives=1, training=Joint(epochs=2)),
            10,
            0,
        ),
    ],
    ids=repr,
)
def test_steps_of_local_training(algorithm, steps, momentum):
    """10 examples make so many steps, and none make none."""
    if isinstance(algorithm, FedFM):
        context = recipe_of(SMALL)[1]
        local = algorithm.on(lifted_path(6, algorithm.dim), context).local
    else:
        local = made(algorithm=algorithm).local
    assert local.steps is not None
    counts = local.steps(jnp.array([10.0, 0.0]))
    np.testing.assert_array_equal(counts, [steps, 0])
    assert local.momentum == momentum


@pytest.mark.parametrize(
    ("changes", "encode", "lifted", "reason"),
    [
        ({}, "auto", True, "exact, since each client takes one step"),
        ({}, "per_client", False, "as asked for"),
        ({"codec": TopK()}, "auto", False, "message transform reads each client's"),
        ({"aggregation": Median()}, "auto", False, "rule reads each client's delta"),
        ({"aggregation": Mean()}, "auto", True, "their mean is linear"),
        (
            {"protocol": Protocol(evaluated="tuned")},
            "auto",
            False,
            "evaluated with their own tuned parameters",
        ),
    ],
)
def test_items_are_encoded_once_only_if_that_is_exact(changes, encode, lifted, reason):
    """A recipe with `lift` stands for FedFM."""
    execution = Execution(encode=encode, max_buckets=1)
    experiment = dataclasses.replace(SMALL, execution=execution, **changes)
    recipe, context = recipe_of(experiment)
    linear = isinstance(changes.get("aggregation", Mean()), Mean)
    aggregator = recipe.aggregator._replace(linear=linear)
    model = recipe.model._replace(lift=lambda *_: None)
    recipe = recipe._replace(model=model, aggregator=aggregator)
    assert decide_lift(recipe, context, experiment)[0] == lifted
    assert reason in decide_lift(recipe, context, experiment)[1][0]
    if not lifted and encode == "auto":
        once = dataclasses.replace(
            experiment, execution=Execution(encode="once", max_buckets=1)
        )
        with pytest.raises(
            ValueError, match=r"encode='once' is not exact: .*own|reads"
        ):
            decide_lift(recipe, context, once)
    unlifted = recipe._replace(model=model._replace(lift=None))
    assert decide_lift(unlifted, context, experiment) == (False, ())


def test_a_lifted_recipe_needs_a_linear_aggregate():
    recipe = made(algorithm=FedAvg(model=MatrixFactorization(dim=4), negatives=1))
    linear = recipe.aggregator._replace(linear=True)
    federated(recipe._replace(aggregator=linear), (1,), lifted=True)
    nonlinear = recipe.aggregator._replace(linear=False)
    with pytest.raises(ValueError, match="aggregator is not linear"):
        federated(recipe._replace(aggregator=nonlinear), (1,), lifted=True)


@pytest.mark.parametrize(
    "wrapper", [IFCA(), Scaffold(), ClusteredByUpdate(), ClusteredByProfile()], ids=repr
)
def test_wrappers_that_leave_the_rule_go_through_a_round_with_it(wrapper):
    algorithm = FedAvg(model=MatrixFactorization(dim=4), negatives=1)
    recipe = made(wrapper=wrapper, aggregation=Median(), algorithm=algorithm)
    assert_round(recipe)


def test_wrappers_follow_one_another():
    """The control variates of SCAFFOLD, on top of a rule for LoRA."""
    wrapper = FlexLoRA(ranks=(1, 2), then=Scaffold())
    assert wrapper.then == Scaffold()
    both = registry.name_of(wrapper)
    assert both == "flexlora+scaffold"
    assert LoRA(rank=2).rank == 2


def test_float64_needs_64_bit_mode():
    experiment = dataclasses.replace(SMALL, execution=Execution(dtype="float64"))
    with pytest.raises(ValueError, match=r"dtype='float64' needs JAX in 64-bit mod"):
        build(experiment)


def test_examples_of_a_chunk_shrink_with_their_pairs():
    assert default_examples_per_chunk(5) == default_examples_per_chunk(1) // 5
    assert default_examples_per_chunk(10**9) == 1
    assert default_examples_per_chunk(1, texts=True) < default_examples_per_chunk(1)


def test_chunks_of_texts_do_not_follow_the_number_of_cores(monkeypatch):
    sizes = set()
    for count in (1, 2, 64):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        sizes.add(default_examples_per_chunk(8, texts=True))
    assert sizes == {4}  # 32 texts, as measured on two cores


def imported_by(name):
    """All modules of the room that a module imports, itself included."""
    names = {name}
    for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text())):
        if not isinstance(node, ast.ImportFrom):
            continue
        module = node.module or ""
        if module == ROOM:
            names |= {n for alias in node.names for n in imported_by(alias.name)}
        elif module.startswith(f"{ROOM}."):
            names |= imported_by(module.rpartition(".")[2])
    return names


def test_build_visits_few_modules_and_asks_no_object_about_its_class():
    visited = imported_by("build")
    assert {"settings", "prepared", "corpus"} < visited
    assert len(visited) <= 10
    asked = {
        ast.unparse(node.args[1])
        for name in visited
        for node in ast.walk(ast.parse((ROOT / f"{name}.py").read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
    }
    assert asked <= {"type", "numbers.Integral", "np.memmap"}  # plain values
