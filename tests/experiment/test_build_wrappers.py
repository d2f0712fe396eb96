"""Clusters and FedAMP in experiments: messages, starts, tuned scores, programs."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    IFCA,
    ClusteredByProfile,
    ClusteredByUpdate,
    Execution,
    Experiment,
    FedAMP,
    FedAvg,
    MatrixFactorization,
    PFedRec,
    QFedAvg,
    SyntheticData,
    Tilted,
    build,
)
from fedjax_rec.contrib.clustered_by_update import SKETCH
from fedjax_rec.contrib.fedamp import NUMBER
from fedjax_rec.core import stacks
from fedjax_rec.core.contracts import Params
from fedjax_rec.experiment.combine import make_recipe
from fedjax_rec.simulation.round import train_client
from fedjax_rec.simulation.scoring import score_tuned
from fedjax_rec.sweep.grouping import groups_of
from fedjax_rec.wrappers.clustered import CLUSTER, group_by_profile
from tests import by_hand
from tests.experiment.embedded import Embedded

SMALL = Experiment(
    name="small",
    data=SyntheticData(num_users=24, num_items=30, num_interactions=240),
    algorithm=FedAvg(model=MatrixFactorization(dim=4), negatives=1, proximal=0.01),
    execution=Execution(max_buckets=1),
    rounds=2,
    eval_every=2,
)
WRAPPERS = {
    "loss": IFCA(clusters=3),
    "update": ClusteredByUpdate(clusters=3, warm_rounds=1),
    "profile": ClusteredByProfile(clusters=3),
    "fedamp": FedAMP(),
}


@functools.cache
def loaded():
    return SMALL.data.load()


CONTEXTS = []


@functools.cache
def made(name, **changes):
    """The simulation of a wrapper, by its name in `WRAPPERS`; of none for `None`."""

    def recipe_of(experiment, context):
        CONTEXTS.append(dataclasses.replace(context, corpus=Embedded()))
        return make_recipe(experiment, CONTEXTS[-1])

    wrapper = WRAPPERS.get(name)
    experiment = dataclasses.replace(SMALL, wrapper=wrapper, **changes)
    return build(experiment, data=loaded(), recipe_of=recipe_of)


@pytest.mark.parametrize("name", WRAPPERS)
def test_messages_are_those_of_one_model_and_ifca_receives_all(name):
    one, several = (s.sampler.tables[1] for s in (made(None), made(name)))
    number = 4 if name in ("loss", "profile") else 0  # of the client's cluster
    np.testing.assert_allclose(several.up, np.asarray(one.up) + number)
    received = 3 if name == "loss" else 1
    np.testing.assert_allclose(several.down, received * np.asarray(one.down))


def test_clients_start_in_the_group_of_their_profile():
    simulation = made("profile")
    profiles = WRAPPERS["profile"].profile.vectors(CONTEXTS[-1])
    group = np.asarray(simulation.personal[CLUSTER]).argmax(1)
    np.testing.assert_array_equal(group, group_by_profile(profiles, 3))
    assert set(simulation.personal) == {"user", CLUSTER}  # the profile is not kept


@pytest.mark.parametrize("name", WRAPPERS)
def test_tuned_scores_are_those_of_the_clients_own_model(name):
    simulation = made(name)
    recipe, data = simulation.recipe, jax.tree.map(jnp.asarray, simulation.data)
    key = jax.random.key(3)
    # Models that differ, so that it matters which of them is tuned.
    shared = {
        **simulation.state.shared,
        "item": jax.tree.map(
            lambda x: jax.random.normal(key, x.shape), simulation.state.shared["item"]
        ),
    }
    train = train_client(recipe, data, 0)

    @jax.jit
    def tuned(shared, own, client):
        result = train(shared, own, (), recipe.hparams, client, key)
        received = Params(shared=shared, personal=own)
        return result, score_tuned(recipe, received, result, (), client, None)

    newcomer = 9  # after the split, without a sketch: it trains the common model
    for client in (4, 7, newcomer):
        own = jax.tree.map(lambda x, c=client: x[c], simulation.personal)
        if name == "update":  # after the split, in a cluster of its own choice
            shared["centers"] = jax.random.normal(key, shared["centers"].shape)
            own[SKETCH] = shared["centers"][client % 3] * (client != newcomer)
        result, scores = tuned(shared, own, jnp.int32(client))
        if name == "update":
            index = 3 if client == newcomer else client % 3
        elif name == "fedamp":
            index = int(own[NUMBER])
        else:
            index = int(result.personal[CLUSTER].argmax())
        table = stacks.select({"item": shared["item"]}, index)["item"]
        table, sent = np.array(table.values), result.delta["item"]
        real = np.asarray(sent.ids) < len(table)
        np.add.at(table, np.asarray(sent.ids)[real], np.asarray(sent.values)[real])
        expected = table @ np.asarray(result.personal["user"])
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_run_of_clusters_by_update_selects_and_evaluates():
    simulation = made("update")
    result = simulation.run()
    assert result["history"][0]["split"] == 0
    assert result["history"][1]["split"] == 1
    assert result["selected"] == 2
    # Each user by the model of the cluster with the nearest direction.
    shared, personal = (
        jax.tree.map(np.asarray, tree)
        for tree in (simulation.state.shared, simulation.personal)
    )
    nearest = (personal[SKETCH] @ shared["centers"].T).argmax(1)
    tables = shared["item"].values[:, nearest]
    scores = np.einsum("iud,ud->ui", tables, personal["user"])
    expected = by_hand.mean_metrics(simulation, "test", scores, cutoff=10)
    got = result["metrics"]["test"]
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-5)


def test_a_sweep_of_the_rate_that_the_rule_reads_shares_no_program():
    for rule, groups in ((QFedAvg(), [[0], [1]]), (Tilted(), [[0, 1]])):
        points = [
            dataclasses.replace(
                SMALL, aggregation=rule, algorithm=PFedRec(client_lr=rate)
            )
            for rate in (0.1, 0.2)
        ]
        assert shared_programs(points) == groups


def shared_programs(points):
    """Groups of points whose recipe is built once for all."""
    from fedjax_rec.sweep.grouping import DiffersError, common_recipe

    groups = []
    for group in groups_of(points):
        recipe_of = common_recipe([points[i] for i in group])
        try:
            build(points[group[0]], data=loaded(), recipe_of=recipe_of)
            groups.append(group)
        except DiffersError as error:
            outcomes = list(dict.fromkeys(error.outcomes))
            groups += [
                [i for i, o in zip(group, error.outcomes, strict=True) if o == outcome]
                for outcome in outcomes
            ]
    return groups
