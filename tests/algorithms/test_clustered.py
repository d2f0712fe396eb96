"""IFCA on clients of two opposite tastes, and against the recipe of one model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators import clusters, means
from fedjax_rec.algorithms import FedAvg
from fedjax_rec.algorithms.clustered import CLUSTER, clustered
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Params, Senders
from fedjax_rec.simulation.round import client_key, make_algorithm


def test_clients_of_two_tastes_part_and_each_model_is_its_clusters_mean(tastes):
    recipe = clustered(tastes.recipe(), 2)
    shared, personal, told = tastes.play(recipe, [tastes.everybody] * 60)
    took = np.asarray(personal[CLUSTER]).argmax(1)
    assert took[0] != took[1]
    np.testing.assert_array_equal(took, took[[0, 1, 0, 1, 0, 1]])
    assert float(told["cluster_most"]) == 0.5
    for taste_ in (0, 1):
        # Squared loss: a row becomes the share of the cluster that chose the item.
        share = np.zeros(tastes.items)
        for user in range(taste_, tastes.users, 2):
            share[4 * taste_ + (np.arange(3) + user) % 4] += 1 / 3
        table = np.asarray(shared["item"].values)[:, took[taste_], 0]
        np.testing.assert_allclose(table, share, atol=1e-3)
    # Each client is ranked by its own cluster's model.
    for user in range(tastes.users):
        own = jax.tree.map(lambda x, u=user: x[u], personal)
        scores = recipe.model.score(Params(shared=shared, personal=own), (), {}, None)
        assert set(np.argsort(-np.asarray(scores))[:3] // 4) == {user % 2}


def test_one_cluster_is_the_recipe_itself(tastes):
    plain = tastes.recipe()
    one = clustered(plain, 1)
    # From the same start: models of a cluster draw their own.
    start = one.model.init(jax.random.key(0)).shared
    single = clusters.select(start, 0)
    key = client_key(jax.random.key(1), jnp.int32(0), jnp.int32(2))
    examples = tastes.data().examples(jnp.int32(2), 0)
    a = plain.client_update(
        Params(shared=single, personal={}), (), examples, plain.hparams, key
    )
    own = {CLUSTER: jnp.ones(1)}
    b = one.client_update(
        Params(shared=start, personal=own), (), examples, one.hparams, key
    )
    jax.tree.map(np.testing.assert_array_equal, a.delta, b.delta)
    deltas = jax.tree.map(lambda x: x[None], b.delta)
    at = jnp.arange(1)
    senders = Senders(slots=at, ids=at, loss=jnp.zeros(1), profile=jnp.ones((1, 1)))
    for rule, shared in ((plain.aggregator, single), (one.aggregator, start)):
        acc = rule.update(rule.init(shared, 1), deltas, b.weight[None], senders)
        delta, _, _ = rule.finish(acc, (), shared)
        if shared is start:
            assert delta["item"].values.shape == (tastes.items, 1, 1)
            delta = clusters.select(delta, 0)
        np.testing.assert_allclose(delta["w"], a.delta["w"], rtol=1e-6)


def test_a_cluster_that_nobody_came_from_stays_and_the_absent_keep_theirs(tastes):
    recipe = clustered(tastes.recipe(), 3)
    key = jax.random.key(3)
    start = make_algorithm(recipe, (4,)).init(key).shared
    shared, personal, _ = tastes.play(recipe, [(0,)])
    took = int(np.asarray(personal[CLUSTER])[0].argmax())
    for s in range(3):
        moved = np.abs(
            np.asarray(shared["item"].values - start["item"].values)[:, s]
        ).max()
        assert (moved > 0) == (s == took)
    np.testing.assert_array_equal(personal[CLUSTER][1:], [[1, 0, 0]] * 5)


def test_lifting_lifts_every_model(tastes):
    plain = tastes.recipe()

    def lift(shared, frozen, axis=None):
        assert axis is None
        return {**shared, "item": rows.Table(values=frozen * shared["item"].values)}

    recipe = clustered(plain._replace(model=plain.model._replace(lift=lift)), 3)
    shared = recipe.model.init(jax.random.key(0)).shared
    assert recipe.model.lift is not None
    lifted = recipe.model.lift(shared, 2.0)
    assert jax.tree.structure(lifted) == jax.tree.structure(shared)
    np.testing.assert_allclose(lifted["item"].values, 2 * shared["item"].values)
    np.testing.assert_array_equal(lifted["w"], shared["w"])


def test_fedavg_takes_clusters(tastes):
    recipe = FedAvg(dim=4, batch_size=8, negatives=2, clusters=2).build(
        num_items=tastes.items, num_users=tastes.users
    )
    shared, personal, told = tastes.play(recipe, [tastes.everybody] * 2)
    assert shared["item"].values.shape == (tastes.items, 2, 4)
    assert set(personal) == {"user", CLUSTER}
    assert np.isfinite(float(told["loss"]))


def test_what_clusters_cannot_hold_is_refused(tastes):
    recipe = tastes.recipe()
    with pytest.raises(ValueError, match="not lifted"):
        clustered(recipe._replace(lifted=True), 2)
    with pytest.raises(ValueError, match="at least 1"):
        clustered(recipe, 0)
    rule = clusters.by_cluster(means.weighted_mean(), 2)
    acc = rule.init(clustered(recipe, 2).model.init(jax.random.key(0)).shared, 3)
    nobody = Senders(slots=jnp.arange(3), ids=jnp.arange(3), loss=jnp.zeros(3))
    with pytest.raises(ValueError, match="tell their cluster"):
        rule.update(acc, {}, jnp.ones(3), nobody)
    with pytest.raises(ValueError, match="clusters"):
        FedAvg(clusters=2, model="ncf", control="scaffold")
