"""IFCA on clients of two opposite tastes, and against the recipe of one model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators import clusters, means
from fedjax_rec.core import rows, stacks
from fedjax_rec.core.contracts import Params, Senders
from fedjax_rec.simulation.round import client_key, federated
from fedjax_rec.wrappers.clustered import CLUSTER, IFCA
from tests import two_tastes as tastes
from tests.two_tastes import EVERYBODY, wrap


def test_clients_of_two_tastes_part_and_each_model_is_its_clusters_mean():
    recipe = wrap(IFCA(clusters=2), tastes.one_model())
    shared, personal, metrics = tastes.play(recipe, [EVERYBODY] * 60)
    took = np.asarray(personal[CLUSTER]).argmax(1)
    assert took[0] != took[1]
    np.testing.assert_array_equal(took, took[[0, 1, 0, 1, 0, 1]])
    assert float(metrics["cluster_most"]) == 0.5
    for taste_ in (0, 1):
        # Squared loss: a row becomes the share of the cluster that chose the item.
        share = np.zeros(tastes.ITEMS)
        for user in range(taste_, tastes.USERS, 2):
            share[4 * taste_ + (np.arange(3) + user) % 4] += 1 / 3
        table = np.asarray(shared["item"].values)[:, took[taste_], 0]
        np.testing.assert_allclose(table, share, atol=1e-3)
    # Each client is ranked by its own cluster's model.
    for user in range(tastes.USERS):
        own = jax.tree.map(lambda x, u=user: x[u], personal)
        scores = recipe.model.score(Params(shared=shared, personal=own), (), {}, None)
        assert set(np.argsort(-np.asarray(scores))[:3] // 4) == {user % 2}


def test_one_cluster_is_the_recipe_itself():
    plain = tastes.one_model()
    one = wrap(IFCA(clusters=1), plain)
    # From the same start: models of a cluster draw their own.
    start = one.model.init(jax.random.key(0)).shared
    single = stacks.select(start, 0)
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
    extras = {clusters.MEMBER: jnp.ones((1, 1))}
    senders = Senders(slots=at, ids=at, loss=jnp.zeros(1), extras=extras)
    for rule, shared in ((plain.aggregator, single), (one.aggregator, start)):
        acc = rule.update(rule.init(shared, 1), deltas, b.weight[None], senders)
        delta, _, _ = rule.finish(acc, (), shared)
        if shared is start:
            assert delta["item"].values.shape == (tastes.ITEMS, 1, 1)
            delta = stacks.select(delta, 0)
        np.testing.assert_allclose(delta["w"], a.delta["w"], rtol=1e-6)


def test_a_cluster_that_nobody_came_from_stays_and_the_absent_keep_theirs():
    recipe = wrap(IFCA(clusters=3), tastes.one_model())
    key = jax.random.key(3)
    start = federated(recipe, (4,)).init(key).shared
    shared, personal, _ = tastes.play(recipe, [(0,)])
    took = int(np.asarray(personal[CLUSTER])[0].argmax())
    for s in range(3):
        moved = np.abs(
            np.asarray(shared["item"].values - start["item"].values)[:, s]
        ).max()
        assert (moved > 0) == (s == took)
    np.testing.assert_array_equal(personal[CLUSTER][1:], [[1, 0, 0]] * 5)


def test_lifting_lifts_every_model():
    plain = tastes.one_model()

    def lift(shared, frozen, axis=None):
        assert axis is None
        return {**shared, "item": rows.Table(values=frozen * shared["item"].values)}

    recipe = wrap(
        IFCA(clusters=3), plain._replace(model=plain.model._replace(lift=lift))
    )
    shared = recipe.model.init(jax.random.key(0)).shared
    assert recipe.model.lift is not None
    lifted = recipe.model.lift(shared, 2.0)
    assert jax.tree.structure(lifted) == jax.tree.structure(shared)
    np.testing.assert_allclose(lifted["item"].values, 2 * shared["item"].values)
    np.testing.assert_array_equal(lifted["w"], shared["w"])


def test_a_model_with_personal_vectors():
    model = tastes.one_model()
    init = model.model.init

    def with_user(key):
        params = init(key)
        return Params(shared=params.shared, personal={"user": jnp.zeros(3)})

    recipe = wrap(
        IFCA(clusters=2),
        model._replace(model=model.model._replace(init=with_user)),
    )
    shared, personal, metrics = tastes.play(recipe, [EVERYBODY] * 2)
    assert set(personal) == {"user", CLUSTER}
    # The loss reads no vector: all is as without them.
    plain = tastes.play(wrap(IFCA(clusters=2), model), [EVERYBODY] * 2)
    jax.tree.map(np.testing.assert_array_equal, shared, plain[0])
    np.testing.assert_array_equal(personal[CLUSTER], plain[1][CLUSTER])
    assert float(metrics["loss"]) == float(plain[2]["loss"])


def test_settings_without_a_stack_of_models_are_refused():
    recipe = tastes.one_model()
    with pytest.raises(ValueError, match="without a message transform"):
        wrap(IFCA(), recipe._replace(transform=object()))
    with pytest.raises(ValueError, match="one model"):
        wrap(IFCA(), wrap(IFCA(), recipe))
    with pytest.raises(ValueError, match="drawn pairs"):
        wrap(IFCA(), recipe._replace(local=recipe.local._replace(draw=None)))
    with pytest.raises(ValueError, match="at least 1"):
        IFCA(clusters=0)
    with pytest.raises(ValueError, match="num_clusters=0"):
        clusters.by_cluster(means.weighted_mean(), 0)
