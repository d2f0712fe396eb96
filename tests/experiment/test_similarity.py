"""Clusters, FedAMP and weights as an experiment names them."""

import dataclasses
import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    AggregationConfig,
    CodecConfig,
    Execution,
    Experiment,
    FedAvg,
    FedFM,
    FedMF,
    ProfileConfig,
    Protocol,
    SyntheticData,
    build,
)
from fedjax_rec.aggregators import fair
from fedjax_rec.aggregators.clusters import select
from fedjax_rec.algorithms.clustered import CLUSTER
from fedjax_rec.algorithms.clustered_by_profile import group_by_profile
from fedjax_rec.algorithms.clustered_by_update import SKETCH
from fedjax_rec.algorithms.fedamp import NUMBER
from fedjax_rec.core.contracts import Senders
from fedjax_rec.core.rows import Rows, Table
from fedjax_rec.experiment import profiles as experiment_profiles
from fedjax_rec.experiment.build import check
from fedjax_rec.experiment.weights import (
    Circumstances,
    by_quantile,
    lipschitz,
    steps_and_momentum,
    weighing_rule,
)
from fedjax_rec.simulation.evaluation import score_tuned
from fedjax_rec.simulation.round import make_algorithm, train_client
from fedjax_rec.sweep.grouping import groups_of

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=FedAvg(dim=4, negatives=1),
    execution=Execution(max_buckets=1),
    rounds=2,
    eval_every=2,
)
LOADED = SMALL.data.load()
EMBEDDING = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
TEXT = ProfileConfig(source="text")
SIMILAR = {
    "loss": {"clusters": 3},
    "update": {"clusters": 3, "clustered_by": "update", "warm_rounds": 1},
    "profile": {"clusters": 3, "clustered_by": "profile"},
    "fedamp": {"personalized": "fedamp"},
}


def made(changes, **others):
    """A simulation; texts are embedded at random, no backbone is at hand."""
    algorithm = dataclasses.replace(SMALL.algorithm, **changes)
    experiment = dataclasses.replace(SMALL, algorithm=algorithm, **others)
    with mock.patch.object(
        experiment_profiles, "text_embeddings", return_value=EMBEDDING
    ):
        return build(experiment, data=LOADED)


@functools.cache
def plain():
    """The simulation of one model."""
    return made({})


def similar(name, **others):
    profile = TEXT if name == "profile" else ProfileConfig()
    return made(SIMILAR[name], profile=profile, **others)


@pytest.mark.parametrize("name", SIMILAR)
def test_messages_are_those_of_one_model_and_ifca_receives_all(name):
    one, several = (s.sampler.tables[1] for s in (plain(), similar(name)))
    np.testing.assert_allclose(several.up, one.up)
    received = 3 if name == "loss" else 1
    np.testing.assert_allclose(several.down, received * np.asarray(one.down))


def test_clients_start_in_the_group_of_their_profile():
    simulation = similar("profile")
    with mock.patch.object(
        experiment_profiles, "text_embeddings", return_value=EMBEDDING
    ):
        profiles = experiment_profiles.make_profiles(
            TEXT, SMALL.backbone, simulation.split.train, plain().data
        )
    group = np.asarray(simulation.personal[CLUSTER]).argmax(1)
    np.testing.assert_array_equal(group, group_by_profile(profiles, 3))
    assert set(simulation.personal) == {"user", CLUSTER}  # the profile is not kept


@pytest.mark.parametrize("name", SIMILAR)
def test_tuned_scores_are_those_of_the_clients_own_model(name):
    simulation = similar(name, protocol=Protocol(evaluated="tuned"))
    recipe, data = simulation.recipe, jax.tree.map(jnp.asarray, simulation.data)
    key = jax.random.key(3)
    # Models that differ, so that it matters which of them is tuned.
    shared = {
        **simulation.state.shared,
        "item": jax.tree.map(
            lambda x: jax.random.normal(key, x.shape), simulation.state.shared["item"]
        ),
    }
    local = train_client(recipe, data, 0)
    for client in (4, 7):
        own = jax.tree.map(lambda x, c=client: x[c], simulation.personal)
        if name == "update":  # after the split, in a cluster of its own choice
            shared["centers"] = jax.random.normal(key, shared["centers"].shape)
            own[SKETCH] = shared["centers"][client % 3]
        result = local(shared, own, (), recipe.hparams, jnp.int32(client), key)
        got = score_tuned(recipe, shared, result, (), jnp.int32(client), None)
        if name == "update":
            index = client % 3
        elif name == "fedamp":
            index = int(own[NUMBER])
        else:
            index = int(result.personal[CLUSTER].argmax())
        table = np.array(select({"item": shared["item"]}, index)["item"].values)
        sent = result.delta["item"]
        real = np.asarray(sent.ids) < len(table)
        np.add.at(table, np.asarray(sent.ids)[real], np.asarray(sent.values)[real])
        expected = table @ np.asarray(result.personal["user"])
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_whole_run_of_clusters_by_update_selects_and_evaluates():
    result = similar("update").run()
    assert result["history"][0]["split"] == 0
    assert result["history"][1]["split"] == 1
    assert 0 < result["metrics"]["test"]["auc"] < 1


@pytest.mark.parametrize(
    ("changes", "others", "message"),
    [
        (SIMILAR["profile"], {}, "set profile.source to 'text'"),
        (SIMILAR["fedamp"], {"codec": CodecConfig(name="top_k")}, "codecs know one"),
        (
            SIMILAR["fedamp"],
            {"aggregation": AggregationConfig(rule="median")},
            "algorithm.personalized='fedamp'",
        ),
        (
            {"client_optimizer": "adam"},
            {"aggregation": AggregationConfig(rule="fednova")},
            "FedNova counts steps of SGD",
        ),
        ({}, {"aggregation": AggregationConfig(rule="q_fedavg", q=-1.0)}, "q=-1.0"),
        ({}, {"aggregation": AggregationConfig(tilt=np.inf)}, "tilt must be finite"),
        (
            {"client_lr": 0.0},
            {"aggregation": AggregationConfig(rule="q_fedavg")},
            "client_lr=0.0 has no inverse",
        ),
        (
            {},
            {"aggregation": AggregationConfig(rule="agnostic", groups=0)},
            "aggregation.groups=0",
        ),
        (
            {},
            {"aggregation": AggregationConfig(rule="agnostic", groups=25)},
            "aggregation.groups=25 of 24 clients",
        ),
    ],
)
def test_what_does_not_fit_together_says_so(changes, others, message):
    with pytest.raises(ValueError, match=message):
        made(changes, **others)


def test_absurd_weights_are_refused_before_anything_is_loaded():
    rule = AggregationConfig(rule="by_trend", temperature=-1.0)
    with pytest.raises(ValueError, match=r"rule='by_trend'.*positive temperature"):
        check(dataclasses.replace(SMALL, aggregation=rule))


def test_a_lifted_recipe_needs_a_linear_aggregate():
    recipe = plain().recipe._replace(lifted=True)
    make_algorithm(recipe, (1,))
    nonlinear = recipe._replace(aggregator=fair.tilted())
    with pytest.raises(ValueError, match="aggregator is not linear"):
        make_algorithm(nonlinear, (1,))


SENT = {
    "item": Rows(ids=jnp.array([[0, 2], [1, 3]]), values=jnp.ones((2, 2, 2))),
    "w": jnp.array([[1.0, 2.0], [-3.0, 4.0]]),
}
SHARED = {"item": Table(values=jnp.zeros((3, 2))), "w": jnp.zeros(2)}


def delta_of(rule):
    """What a rule makes of two clients with 2 and 10 examples, losses .5 and 2."""
    ids = jnp.array([0, 1])
    senders = Senders(slots=ids, ids=ids, loss=jnp.array([0.5, 2.0]))
    state = rule.start(SHARED)
    acc = rule.begin(rule.init(SHARED, 2), state)
    acc = rule.update(acc, SENT, jnp.array([2.0, 10.0]), senders)
    return np.asarray(rule.finish(acc, state, SHARED)[0]["w"])


W = np.array([[1.0, 2.0], [-3.0, 4.0]])
N_I, F = np.array([2.0, 10.0]), np.array([0.5, 2.0])
NORMS = np.sqrt((W**2).sum(1) + np.array([4, 2]))  # the second's row 3 is padding


def weighed(weight):
    return weight @ W / weight.sum()


def q_step(q, rate):
    """Algorithm 2 of q-FedAvg, with `L` 1 over the learning rate."""
    scaled = W / rate
    h = F**q / rate + q * F ** (q - 1) * (NORMS / rate) ** 2
    return (N_I * F**q) @ scaled / (N_I @ h)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"rule": "q_fedavg", "q": 2.0}, q_step(2.0, 0.25)),
        ({"rule": "q_fedavg", "lipschitz": 10.0}, q_step(1.0, 0.1)),
        ({"rule": "tilted", "tilt": -2.0}, weighed(N_I * np.exp(-2 * F))),
        ({"rule": "by_size"}, weighed(N_I**0.5)),
        ({"rule": "by_size", "power": 0.0}, weighed(np.ones(2))),
        ({"rule": "by_magnitude"}, weighed(N_I / NORMS)),
        ({"rule": "by_magnitude", "power": 1.0}, weighed(N_I * NORMS)),
        ({"rule": "by_effective_number", "beta": 0.5}, weighed(1 - 0.5**N_I)),
        ({"rule": "by_participation"}, W.mean(0)),
        ({"rule": "by_trend"}, weighed(N_I)),
        # Groups of one client each, at first alike.
        ({"rule": "agnostic", "groups": 2}, W.mean(0)),
        # 2 and 10 examples of 2 pairs are 1 and 5 batches of 4.
        (
            {"rule": "fednova"},
            N_I @ [1, 5] / 12 * (N_I / [1, 5] @ W) / 12,
        ),
        (
            {"rule": "attentive", "temperature": 3.0},
            np.exp(np.linalg.norm(W, axis=1) / 3)
            @ W
            / np.exp(np.linalg.norm(W, axis=1) / 3).sum(),
        ),
    ],
)
def test_settings_reach_their_rule(fields, expected):
    algorithm = FedAvg(client_lr=0.25, batch_size=4, negatives=1)
    about = Circumstances(np.array([2, 10]), algorithm)
    rule = weighing_rule(AggregationConfig(**fields), about)
    np.testing.assert_allclose(delta_of(rule), expected, rtol=1e-5)


def test_groups_by_holdings_and_steps_by_algorithm():
    held = np.array([5, 1, 9, 3, 3, 30, 2, 7])
    groups = by_quantile(held, 4)(jnp.arange(8))
    np.testing.assert_array_equal(groups, [2, 0, 3, 1, 1, 3, 0, 2])
    ten = jnp.array([10.0, 0.0])
    for algorithm, steps, momentum in (
        (FedAvg(batch_size=4, negatives=1, local_epochs=3), 15, 0),
        (FedAvg(batch_size=4, negatives=1, client_optimizer="momentum"), 5, 0.9),
        (FedMF(feedback="explicit"), 10, 0),
        (FedFM(batch_size=4, negatives=1), 5, 0),
        (FedFM(batch_size=5, negatives=2), 10, 0),  # a positive and its negatives
        (FedFM(shared_steps="once", local_epochs=4), 1, 0),
    ):
        found = steps_and_momentum(algorithm)
        np.testing.assert_array_equal(found[0](ten), [steps, 0])
        assert found[1] == momentum
    assert lipschitz(AggregationConfig(), FedAvg(client_lr=0.5)) == 2
    with pytest.raises(ValueError, match=r"algorithm.proximal=0\.1"):
        steps_and_momentum(FedAvg(proximal=0.1))


def test_a_sweep_of_the_rate_that_the_rule_reads_shares_no_program():
    for rule, groups in (("q_fedavg", [[0], [1]]), ("tilted", [[0, 1]])):
        points = [
            dataclasses.replace(
                SMALL,
                aggregation=AggregationConfig(rule=rule),
                algorithm=FedAvg(client_lr=rate),
            )
            for rate in (0.1, 0.2)
        ]
        assert groups_of(points) == groups
