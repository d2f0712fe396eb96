"""FedAMP against a reference in NumPy, its limits, and a population of two tastes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec.aggregators import means
from fedjax_rec.contrib.fedamp import NUMBER, FedAMP, message_passing, squared_distances
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import (
    ClientResult,
    Local,
    Model,
    Params,
    Recipe,
    Senders,
)
from tests import two_tastes as tastes
from tests.two_tastes import EVERYBODY, ITEMS, USERS, wrap


def flat(shared):
    """`[N, P]` of a stack of tables `[I, N, d]` and dense leaves `[N, ...]`."""
    n = shared["w"].shape[0]
    table = np.moveaxis(np.asarray(shared["item"].values), 1, 0).reshape(n, -1)
    return np.concatenate([table, np.asarray(shared["w"]).reshape(n, -1)], 1)


def mixed(w, came, sigma, mixing):
    """Equations 3 and 4 of the paper, client by client."""
    n = len(w)
    u = np.zeros_like(w)
    alpha = mixing * sigma / n
    for i in range(n):
        rest = 1.0
        for j in np.flatnonzero(came):
            if j != i:
                distance = ((w[i] - w[j]) ** 2).sum()
                xi = alpha * np.exp(-distance / sigma) / sigma
                u[i] += xi * w[j]
                rest -= xi
        u[i] += rest * w[i]
    return u


@pytest.mark.parametrize(("sigma", "mixing"), [(0.7, 1.0), (5.0, 0.4)])
def test_rounds_are_those_of_the_reference(sigma, mixing):
    n, rng = 5, np.random.default_rng(0)
    shared = {
        "item": rows.Table(values=jnp.asarray(rng.normal(size=(ITEMS, n, 2)))),
        "w": jnp.asarray(rng.normal(size=(n, 3))),
    }
    rule = message_passing(n, sigma, mixing)
    state = rule.start(shared)
    w, u, came = flat(shared), flat(shared), np.zeros(n)
    for present in ([0, 2, 3], [1, 2], [3, 4, 0]):
        acc = rule.init(shared, 4)
        for i in present:
            ids = rng.integers(0, ITEMS + 1, 4)  # repeats add up, padding does not
            delta = {
                "item": rows.Rows(
                    ids=jnp.asarray(ids)[None],
                    values=jnp.asarray(rng.normal(size=(1, 4, 2))),
                ),
                "w": jnp.asarray(rng.normal(size=(1, 3))),
            }
            at = jnp.asarray([i])
            senders = Senders(slots=at, ids=at, loss=jnp.zeros(1))
            acc = rule.update(acc, delta, jnp.asarray([7.0]), senders)
            table = np.zeros((ITEMS + 1, 2))
            np.add.at(table, ids, np.asarray(delta["item"].values[0]))
            own = np.concatenate([table[:ITEMS].reshape(-1), delta["w"][0]])
            w[i] = u[i] + own
            came[i] = 1
        away = jnp.asarray([1])
        nobody = Senders(slots=away, ids=away, loss=jnp.zeros(1))
        acc = rule.update(acc, delta, jnp.zeros(1), nobody)
        change, state, metrics = rule.finish(acc, state, shared)
        shared = jax.tree.map(jnp.add, shared, change)
        u = mixed(w, came, sigma, mixing)
        np.testing.assert_allclose(flat(shared), u, rtol=1e-4, atol=1e-5)
        pairs = [
            ((w[i] - w[j]) ** 2).sum()
            for i in np.flatnonzero(came)
            for j in np.flatnonzero(came)
            if i != j
        ]
        np.testing.assert_allclose(metrics["amp_distance"], np.mean(pairs), rtol=1e-4)


def test_distances_of_models_that_lie_close_together_do_not_cancel():
    rng = np.random.default_rng(1)
    near = 100 + 1e-3 * rng.normal(size=(4, 50))
    found = squared_distances({"w": jnp.asarray(near, jnp.float32)}, 4)
    exact = near.astype(np.float32).astype(np.float64)
    expected = ((exact[:, None] - exact[None]) ** 2).sum(-1)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-9)


def quadratic(targets, lr, steps, proximal):
    """Client `i` descends `|x - targets_i|^2 / 2`, by steps with a proximal term."""

    def update(params, frozen, examples, hparams, key):
        del frozen, hparams, key
        aim = jnp.asarray(targets)[examples["user"][0]]
        start = params.shared["x"]
        x = start
        for _ in range(steps):
            x = x - lr * (x - aim + proximal * (x - start))
        weight = examples["mask"].sum().astype(x.dtype)
        return ClientResult(
            delta={"x": x - start},
            personal=dict(params.personal),
            weight=weight,
            metrics={"loss": jnp.sum((x - aim) ** 2) / 2},
        )

    def init(key):
        return Params(shared={"x": jnp.zeros(targets.shape[1])}, personal={})

    def score(params, frozen, query, candidates):
        del frozen, query, candidates
        return params.shared["x"]

    return Recipe(
        model=Model(init, lambda *_: (jnp.zeros(()), {}), score),
        client_update=update,
        aggregator=means.weighted_mean(),
        server_optimizer=lambda h: optax.sgd(1.0),
        hparams={},
        local=Local(proximal=True),
    )


def test_clients_find_their_own_in_whole_rounds():
    """The engine against the paper's algorithm, with somebody away in every round."""
    rng = np.random.default_rng(2)
    targets = rng.normal(size=(USERS, 3)).astype(np.float32)
    lr, steps, proximal, sigma = 0.2, 3, 0.5, 2.0
    recipe = wrap(FedAMP(sigma=sigma), quadratic(targets, lr, steps, proximal))
    cohorts = [(4, 0, 1, 2, 3), (5, 3, 2, 0, 6), (1, 4, 5, 2, 3)]
    shared, personal, _ = tastes.play(recipe, cohorts)
    w = u = np.zeros((USERS, 3))
    came = np.zeros(USERS)
    for present in cohorts:
        w = w.copy()
        for i in (p for p in present if p < USERS):
            x = u[i]
            for _ in range(steps):
                x = x - lr * (x - targets[i] + proximal * (x - u[i]))
            w[i], came[i] = x, 1
        u = mixed(w, came, sigma, 1.0)
    np.testing.assert_allclose(shared["x"], u, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(personal[NUMBER], np.arange(USERS))
    own = jax.tree.map(lambda x: x[4], personal)
    score = recipe.model.score(Params(shared=shared, personal=own), (), {}, None)
    np.testing.assert_array_equal(score, shared["x"][4])


def test_equal_weights_are_the_uniform_mean_and_no_mixing_trains_alone():
    targets = np.random.default_rng(3).normal(size=(USERS, 3)).astype(np.float32)
    recipe = quadratic(targets, 1.0, 1, 0.0)  # one step from anywhere to the target
    far, _, _ = tastes.play(wrap(FedAMP(sigma=1e9), recipe), [EVERYBODY])
    mean = np.tile(targets.mean(0), (USERS, 1))
    np.testing.assert_allclose(far["x"], mean, rtol=1e-5, atol=1e-6)
    alone = wrap(FedAMP(mixing=0.0), recipe)
    shared, _, metrics = tastes.play(alone, [EVERYBODY] * 2)
    np.testing.assert_allclose(shared["x"], targets, rtol=1e-6)
    assert float(metrics["amp_self"]) == 1
    near, _, _ = tastes.play(wrap(FedAMP(sigma=1e-4), recipe), [EVERYBODY])
    np.testing.assert_allclose(near["x"], targets, rtol=1e-6)


def pulled(recipe):
    """The recipe as one with a proximal term, of weight 0."""
    return recipe._replace(local=recipe.local._replace(proximal=True))


def test_by_default_attraction_falls_to_a_fraction_e_at_the_mean_distance():
    targets = np.random.default_rng(3).normal(size=(USERS, 3)).astype(np.float32)
    for scale in (1e-4, 1.0, 1e4):  # it does not depend on the unit of the model
        # One step leads from anywhere to the target.
        scaled = quadratic(scale * targets, 1.0, 1, 0.0)
        shared, _, metrics = tastes.play(wrap(FedAMP(), scaled), [EVERYBODY])
        w = targets.astype(np.float64)
        apart = ((w[:, None] - w[None]) ** 2).sum(-1)
        sigma = apart.sum() / (USERS * (USERS - 1))
        expected = mixed(w, np.ones(USERS), sigma, 1.0)
        np.testing.assert_allclose(shared["x"] / scale, expected, rtol=1e-3, atol=1e-4)
        assert 0.4 < float(metrics["amp_self"]) < 0.8


def test_like_clients_help_each_other_and_unlike_ones_do_not():
    """Two tastes: attraction within, none between."""
    recipe = pulled(tastes.one_model())
    start = recipe.model.init

    def init(key):  # w oscillates in this model; without it distances are of tastes
        params = start(key)
        return Params(shared={**params.shared, "w": jnp.zeros(2)}, personal={})

    recipe = recipe._replace(model=recipe.model._replace(init=init))
    shared, personal, _ = tastes.play(wrap(FedAMP(), recipe), [EVERYBODY] * 40)
    table = np.asarray(shared["item"].values)[..., 0]
    apart = ((table[:, :, None] - table[:, None]) ** 2).sum(0)
    same = np.arange(USERS) % 2 == (np.arange(USERS) % 2)[:, None]
    assert apart[same].max() < 0.5 * apart[~same].min()
    for user in range(USERS):
        own = jax.tree.map(lambda x, u=user: x[u], personal)
        made = wrap(FedAMP(), recipe).model
        scores = made.score(Params(shared=shared, personal=own), (), {}, None)
        assert set(np.argsort(-np.asarray(scores))[:3] // 4) == {user % 2}


def test_one_client_is_local_training():
    plain = pulled(tastes.one_model())
    one = wrap(FedAMP(sigma=1e-6), plain)
    lone, _, _ = tastes.play(one, [(2,)] * 3)
    expected, _, _ = tastes.play(plain, [(2,)] * 3)
    np.testing.assert_allclose(
        lone["item"].values[:, 2], expected["item"].values, rtol=1e-5, atol=1e-6
    )


def test_settings_beyond_the_method_are_refused():
    recipe = pulled(tastes.one_model())
    with pytest.raises(ValueError, match="FedAvg with a positive proximal"):
        wrap(FedAMP(), tastes.one_model())
    with pytest.raises(ValueError, match="are more than"):
        wrap(FedAMP(), recipe, max_numbers=10 * USERS - 1)
    wrap(FedAMP(), recipe, max_numbers=10 * USERS)
    with pytest.raises(ValueError, match="without a message transform"):
        wrap(FedAMP(), recipe._replace(transform=object()))
    for numbers in (
        {"server_optimizer.lr": 0.5},
        {"server_optimizer.lr": 1.0, "server_optimizer.momentum": 0.9},
        {"adapter_lr_scale": 2.0},
    ):
        with pytest.raises(ValueError, match="the server takes no step"):
            wrap(FedAMP(), recipe._replace(hparams={**recipe.hparams, **numbers}))
    for settings in ({"sigma": 0.0}, {"mixing": 2.0}):
        with pytest.raises(ValueError, match="positive squared distance"):
            FedAMP(**settings)
