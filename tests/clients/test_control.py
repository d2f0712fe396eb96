"""SCAFFOLD against its algorithm in NumPy, and at its fixed point."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec.aggregators import means
from fedjax_rec.aggregators.scaffold import scaffold
from fedjax_rec.algorithms import FedAvg
from fedjax_rec.clients.control import (
    CONTROL,
    OWN,
    controlled_update,
    with_control,
)
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model, Params, Senders

RATE, BATCH, EPOCHS = 0.1, 2, 3
# Clients differ in curvature and minimum: local steps drift apart.
CURVATURE = np.array([1.0, 4.0, 0.5])
MINIMUM = np.array([[0.0, 1], [2, -1], [-3, 5]])
EXAMPLES = np.array([2, 5, 3])  # 1, 3 and 2 batches an epoch
OPTIMUM = (CURVATURE[:, None] * MINIMUM).sum(0) / CURVATURE.sum()


def quadratic():
    def init(key):
        del key
        return Params(shared={"w": jnp.zeros(2)}, personal={"user": jnp.zeros(1)})

    def loss(params, frozen, batch, key):
        del frozen, key
        mask = batch["mask"]
        off = params.shared["w"] - batch["minimum"]
        each = 0.5 * batch["curvature"] * jnp.sum(off**2, -1)
        value = jnp.sum(jnp.where(mask, each, 0)) / jnp.maximum(mask.sum(), 1)
        return value, {}

    return Model(init, loss, lambda params, frozen, query, candidates: jnp.zeros(1))


def world(controlled=True):
    """`(init, one client's training)`."""
    model = quadratic()

    def make(model):
        phase = Phase(lambda h: optax.sgd(h["rate"]))
        return local_update(
            model,
            lambda examples, key: dict(examples),
            (phase,),
            batch_size=BATCH,
            epochs=EPOCHS,
        )

    if not controlled:
        return model.init, make(model)
    update = controlled_update(
        make, model, steps=local_steps(BATCH, EPOCHS), rate=lambda h: h["rate"]
    )
    return with_control(model).init, update


def examples(client):
    mask = jnp.arange(6) < EXAMPLES[client]
    return {
        "mask": mask,
        "curvature": jnp.full(6, CURVATURE[client], jnp.float32),
        "minimum": jnp.broadcast_to(jnp.float32(MINIMUM[client]), (6, 2)),
    }


def play(rounds, present, controlled=True):
    """Yields shared and personal parameters after each round."""
    init, update = world(controlled)
    start = init(jax.random.key(0))
    shared, personal = start.shared, [start.personal] * 3
    train = jax.jit(lambda p, e: update(p, (), e, {"rate": RATE}, jax.random.key(1)))
    inner = means.weighted_mean(uniform=True)
    rule = scaffold(inner, 3) if controlled else inner
    for _ in range(rounds):
        acc = rule.init(shared, 3)
        for client in present:
            result = train(
                Params(shared=shared, personal=personal[client]), examples(client)
            )
            one = jax.tree.map(lambda x: x[None], result.delta)
            at = jnp.asarray([client])
            senders = Senders(slots=at, ids=at, loss=jnp.zeros(1))
            acc = rule.update(acc, one, result.weight[None], senders)
            personal[client] = result.personal
        delta, _, _ = rule.finish(acc, rule.start(shared), shared)
        shared = jax.tree.map(jnp.add, shared, delta)
        yield shared, personal


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
def test_the_algorithm_of_the_paper(present):
    x, c, own = np.zeros(2), np.zeros(2), np.zeros((3, 2))
    for shared, personal in play(4, present):
        moves, changes = [], []
        for i in present:
            y = x.copy()
            count = EPOCHS * -(-EXAMPLES[i] // BATCH)
            for _ in range(count):
                y -= RATE * (CURVATURE[i] * (y - MINIMUM[i]) - own[i] + c)
            new = own[i] - c + (x - y) / (count * RATE)
            moves.append(y - x)
            changes.append(new - own[i])
            own[i] = new
        x = x + np.mean(moves, 0)
        c = c + np.sum(changes, 0) / 3
        np.testing.assert_allclose(shared["w"], x, atol=1e-5)
        np.testing.assert_allclose(shared[CONTROL]["w"], c, atol=1e-5)
        for i in range(3):
            np.testing.assert_allclose(personal[i][OWN]["w"], own[i], atol=1e-5)


def test_it_reaches_the_optimum_that_fedavg_misses():
    *_, (scaffolded, _) = play(80, (0, 1, 2))
    *_, (averaged, _) = play(80, (0, 1, 2), controlled=False)
    np.testing.assert_allclose(scaffolded["w"], OPTIMUM, atol=1e-3)
    assert np.linalg.norm(np.asarray(averaged["w"]) - OPTIMUM) > 0.05


def test_the_loss_told_is_the_clients_own_and_an_absent_client_keeps_its_variate():
    init, update = world()
    start = init(jax.random.key(0))
    shared = {**start.shared, CONTROL: {"w": jnp.asarray([5.0, -7.0])}}
    told = update(
        Params(shared=shared, personal=start.personal),
        (),
        examples(0),
        {"rate": 0.0001},
        jax.random.key(0),
    )
    # From w = 0 the loss is 1/2 |(0, 1)|^2, whatever the correction.
    assert float(told.metrics["loss"]) == pytest.approx(0.5, abs=0.01)
    nobody = {**examples(0), "mask": jnp.zeros(6, bool)}
    own = {**start.personal, OWN: {"w": jnp.asarray([1.0, 2.0])}}
    still = update(
        Params(shared=shared, personal=own),
        (),
        nobody,
        {"rate": 0.1},
        jax.random.key(0),
    )
    np.testing.assert_array_equal(still.personal[OWN]["w"], [1, 2])
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(still.delta))


def test_fixed_groups_and_tables_unless_asked_for_have_no_variate():
    def init(key):
        del key
        shared = {
            "item": rows.Table(values=jnp.zeros((4, 2))),
            "head": jnp.zeros(3),
            "body": jnp.ones(2),
        }
        return Params(shared=shared, personal={})

    model = quadratic()._replace(init=init)
    params = with_control(model, fixed=("head",)).init(jax.random.key(0))
    assert set(params.shared[CONTROL]) == set(params.personal[OWN]) == {"body"}
    params = with_control(model, fixed=("head",), tables=True).init(jax.random.key(0))
    assert set(params.shared[CONTROL]) == set(params.personal[OWN]) == {"body", "item"}
    only = model._replace(
        init=lambda key: Params(shared={"item": init(key).shared["item"]}, personal={})
    )
    with pytest.raises(ValueError, match="there is none among item"):
        with_control(only).init(jax.random.key(0))


def test_what_scaffold_cannot_correct_is_refused():
    wrongs: list[dict[str, Any]] = [
        {"model": "scorer"},
        {"model": "ncf", "users": "table"},
        {"model": "ncf", "client_optimizer": "adam"},
        {"model": "ncf", "proximal": 0.1},
    ]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="corrects plain SGD"):
            FedAvg(control="scaffold", **wrong)
    with pytest.raises(ValueError, match="with_control"):
        scaffold(means.weighted_mean(), 3).init({"w": jnp.zeros(2)}, 3)
