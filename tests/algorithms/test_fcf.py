"""FCF against its equations in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import FCF, SGD, Execution, Experiment, FedAdam, SyntheticData, build
from fedjax_rec.algorithms.fcf import solved
from fedjax_rec.data.interactions import Entities, make_interactions

ITEMS, SIZES = 30, (4, 7, 5, 12, 9)


def interactions():
    rng = np.random.default_rng(0)
    items = [rng.choice(ITEMS, size, replace=False) for size in SIZES]
    users = [np.full(len(x), u) for u, x in enumerate(items)]
    return make_interactions(
        user=np.concatenate(users),
        item=np.concatenate(items),
        users=Entities(ids=[f"u{u}" for u in range(len(SIZES))]),
        items=Entities(ids=[f"i{i}" for i in range(ITEMS)]),
    )


SMALL = Experiment(
    name="fcf",
    data=SyntheticData(),
    algorithm=FCF(dim=6, alpha=3.0, l2=0.5, server_optimizer=SGD(lr=0.01)),
    execution=Execution(max_buckets=2),
    rounds=1,
    eval_every=1,
)


def counts_of(simulation):
    """`r` `[N, I]`."""
    data = simulation.data.interactions
    r = np.zeros((len(SIZES), ITEMS))
    for u, (first, size) in enumerate(zip(data.offset, data.size, strict=True)):
        for i in np.asarray(data.columns["item"])[first : first + size]:
            r[u, i] += 1
    return r


def solution(y, c, p, l2):
    """`x_u` of one client, equation 4 of the paper."""
    c = np.diag(c)
    return np.linalg.inv(y.T @ c @ y + l2 * np.eye(y.shape[1])) @ y.T @ c @ p


def objective(x, y, r, alpha, l2):
    terms = (1 + alpha * r) * ((r > 0) - x @ y.T) ** 2
    return terms.sum() + l2 * (np.square(x).sum() + np.square(y).sum())


@pytest.mark.parametrize("optimizer", [SGD(lr=0.01), FedAdam(lr=0.1, tau=1e-3)])
def test_a_round_is_that_of_the_paper(optimizer):
    algorithm = dataclasses.replace(SMALL.algorithm, server_optimizer=optimizer)
    experiment = dataclasses.replace(SMALL, algorithm=algorithm)
    simulation = build(experiment, data=interactions())
    y = np.asarray(simulation.state.shared["item"], np.float64)
    r = counts_of(simulation)
    simulation.run()
    p, c = (r > 0).astype(float), 1 + 3.0 * r
    x = np.stack([solution(y, c[u], p[u], 0.5) for u in range(len(r))])
    gradient = 2 * 0.5 * y
    for u, i in np.ndindex(*r.shape):
        gradient[i] -= 2 * c[u, i] * (p[u, i] - x[u] @ y[i]) * x[u]
    step = 0.01 * gradient
    if isinstance(optimizer, FedAdam):  # its first step, with the bias corrected
        step = 0.1 * gradient / (np.abs(gradient) + 1e-3)
    np.testing.assert_allclose(simulation.personal["user"], x, rtol=1e-5, atol=1e-5)
    result = simulation.state.shared["item"]
    np.testing.assert_allclose(result, y - step, rtol=1e-5, atol=1e-5)


def test_repeated_interactions_add_up_and_padding_counts_as_none():
    recipe, key = build(SMALL, data=interactions()).recipe, jax.random.key(0)
    params = recipe.model.init(key)
    items = np.array([3, 8, 3, 3, 11, ITEMS, ITEMS])
    examples = {"item": jnp.asarray(items), "mask": jnp.asarray(items < ITEMS)}
    result = recipe.client_update(params, (), examples, recipe.hparams, key)
    y = np.asarray(params.shared["item"], np.float64)
    r = np.bincount(items, minlength=ITEMS + 1)[:ITEMS]
    p, c = (r > 0).astype(float), 1 + 3.0 * r
    x = solution(y, c, p, 0.5)
    np.testing.assert_allclose(result.personal["user"], x, rtol=1e-5)
    step = 2 * np.outer(c * (p - y @ x), x)
    np.testing.assert_allclose(result.delta["item"], step, rtol=1e-5, atol=1e-6)
    assert float(result.weight) == 5


def test_the_gradient_is_that_of_the_objective():
    """By central differences, with the users' vectors held."""
    simulation = build(SMALL, data=interactions())
    y, r = (
        np.asarray(simulation.state.shared["item"], np.float64),
        counts_of(simulation),
    )
    simulation.run()
    x = np.asarray(simulation.personal["user"], np.float64)
    step = y - np.asarray(simulation.state.shared["item"], np.float64)
    for i, j in [(0, 0), (3, 2), (29, 5)]:
        h = np.zeros_like(y)
        h[i, j] = 1e-4
        high, low = (objective(x, z, r, 3.0, 0.5) for z in (y + h, y - h))
        assert step[i, j] / 0.01 == pytest.approx((high - low) / 2e-4, rel=1e-3)


def test_the_objective_falls():
    simulation = build(
        dataclasses.replace(SMALL, eval_every=5, rounds=20), data=interactions()
    )
    r, values = counts_of(simulation), []
    for _ in range(4):
        y = np.asarray(simulation.state.shared["item"], np.float64)
        simulation.advance(5)
        x = [solution(y, 1 + 3.0 * row, row > 0, 0.5) for row in r]
        values.append(objective(np.stack(x), y, r, 3.0, 0.5))
    assert np.all(np.diff(values) < 0)


@pytest.mark.parametrize("d", [1, 2, 17])
def test_the_solver_against_numpy(d):
    rng = np.random.default_rng(d)
    root = rng.normal(size=(4, d, d + 3)).astype(np.float32)
    matrices = root @ root.transpose(0, 2, 1) + np.eye(d, dtype=np.float32)
    vectors = rng.normal(size=(4, d)).astype(np.float32)
    result = jax.jit(jax.vmap(solved))(jnp.asarray(matrices), jnp.asarray(vectors))
    expected = np.linalg.solve(matrices.astype(np.float64), vectors[..., None])[..., 0]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_messages_hold_every_row_and_no_ids():
    costs = build(SMALL, data=interactions()).sampler.tables[1]
    np.testing.assert_allclose(costs.up, 4 * ITEMS * 6)
    np.testing.assert_allclose(costs.down, 4 * ITEMS * 6)
