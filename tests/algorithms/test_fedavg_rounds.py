"""Rounds of FedAvg with each of its models, rules and local optimizers, in NumPy."""

import jax
import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    Adam,
    FedAvg,
    MatrixFactorization,
    Mean,
    Momentum,
    NeuralCF,
    PersonalScorer,
)
from tests import by_hand
from tests.by_hand import CLIENTS, EXAMPLES, World

RATE, SCALE, SERVER = 0.4, 3.0, 0.5
SIZE = {"dim": 3, "init_scale": 0.7}
SMALL = {
    "model": MatrixFactorization(**SIZE),
    "client_optimizer": SGD(lr=RATE),
    "item_lr_scale": SCALE,
    "server_optimizer": SGD(lr=SERVER),
    "negatives": 2,
}
RULES: dict[str, Mean | None] = {
    "examples, by default": None,
    "examples": Mean(weights="examples"),
    "uniform": Mean(weights="uniform"),
    "examples per row": Mean(weights="examples", per_row=True),
    "uniform per row": Mean(weights="uniform", per_row=True),
}


def weights_of(rule):
    return EXAMPLES if rule.startswith("examples") else np.ones(len(EXAMPLES))


def averaged(before, trained, weights, touched=None):
    """The server's step along the weighted mean of the clients' changes."""
    changes = [w * (x - before) for w, x in zip(weights, trained, strict=True)]
    over = weights.sum()
    if touched is not None:  # a mean over the clients that touched a row
        over = np.maximum((weights[:, None] * touched).sum(0), 1e-9)[:, None]
    return before + SERVER * sum(changes) / over


@pytest.mark.parametrize("rule", RULES)
def test_factorization_under_every_mean(rule):
    world = World(FedAvg(**SMALL, batch_size=5), aggregation=RULES[rule])
    table, users = world.shared["item"].values, world.personal["user"]
    for number in range(2):
        tables, touched = [], np.zeros((len(CLIENTS), len(table)))
        for client in CLIENTS:
            rows = table.copy()
            for batch in world.batches(number, client, 5):
                of_rows, of_user = by_hand.factorization(rows, users[client], batch)
                rows -= RATE * SCALE * of_rows
                users[client] -= RATE * of_user
                touched[client, batch["item"]] = 1
            tables.append(rows)
        per_row = touched if rule.endswith("per row") else None
        table = averaged(table, tables, weights_of(rule), per_row)
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.personal["user"], users)


def test_a_personal_scorer_takes_one_joint_step():
    world = World(
        FedAvg(**{**SMALL, "model": PersonalScorer(**SIZE)}),
        aggregation=RULES["examples"],
        rounds=1,
    )
    table, scorers = world.shared["item"].values, world.personal["scorer"]
    assert np.ptp(scorers["w"], axis=0).min() > 0
    tables = []
    for client in CLIENTS:
        (batch,) = world.batches(0, client)
        of_rows, gradient = by_hand.scorer(
            table, by_hand.of_client(scorers, client), batch
        )
        tables.append(table - RATE * SCALE * of_rows)
        for name, slope in gradient.items():
            scorers[name][client] -= RATE * slope
    world.simulation.advance(1)
    by_hand.close(
        world.shared["item"].values, averaged(table, tables, weights_of("examples"))
    )
    by_hand.close(world.personal["scorer"], scorers)


def test_a_perceptron_and_a_shared_table_of_users():
    """The user's rows are those of a table, moved and averaged as the items' are."""
    world = World(
        FedAvg(**{**SMALL, "model": NeuralCF(**SIZE, users="table")}),
        aggregation=RULES["examples"],
        rounds=1,
    )
    shared = world.shared
    table, users, mlp = shared["item"].values, shared["user"].values, shared["mlp"]
    tables, vectors, layers = [], [], []
    for client in CLIENTS:
        (batch,) = world.batches(0, client)
        assert (batch["user"] == client).all()
        of_rows, of_layers, of_user = by_hand.perceptron_gradient(
            table, mlp, users[client], batch
        )
        tables.append(table - RATE * SCALE * of_rows)
        vectors.append(users.copy())
        vectors[-1][client] -= RATE * SCALE * of_user
        layers.append(jax.tree.map(lambda x, g: x - RATE * g, mlp, of_layers))
    weights = weights_of("examples")
    world.simulation.advance(1)
    by_hand.close(world.shared["item"].values, averaged(table, tables, weights))
    by_hand.close(world.shared["user"].values, averaged(users, vectors, weights))
    wanted = jax.tree.map(lambda x, *y: averaged(x, y, weights), mlp, *layers)
    by_hand.close(world.shared["mlp"], wanted)


def momentum(gradient, state, _):
    state["m"] = 0.9 * state.get("m", 0) + gradient
    return 0.1 * state["m"]


def adam(gradient, state, step):
    """Kingma and Ba, algorithm 1."""
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * gradient
    state["v"] = 0.999 * state.get("v", 0) + 0.001 * gradient**2
    m, v = state["m"] / (1 - 0.9**step), state["v"] / (1 - 0.999**step)
    return 0.1 * m / (np.sqrt(v) + 1e-8)


@pytest.mark.parametrize(
    ("optimizer", "step_of"), [(Momentum(lr=0.1), momentum), (Adam(lr=0.1), adam)]
)
def test_local_optimizers_keep_their_state_within_a_round(optimizer, step_of):
    world = World(
        FedAvg(
            **{**SMALL, "client_optimizer": optimizer, "item_lr_scale": 1.0},
            batch_size=5,
            local_epochs=2,
        ),
        aggregation=RULES["examples"],
    )
    table, users = world.shared["item"].values, world.personal["user"]
    for number in range(2):
        tables = []
        for client in CLIENTS:
            rows, state_of_rows, state_of_user = table.copy(), {}, {}
            batches = world.batches(number, client, 5, 2)
            for step, batch in enumerate(batches, 1):
                of_rows, of_user = by_hand.factorization(rows, users[client], batch)
                rows -= step_of(of_rows, state_of_rows, step)
                users[client] -= step_of(of_user, state_of_user, step)
            tables.append(rows)
        table = averaged(table, tables, weights_of("examples"))
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table, atol=1e-4)
        by_hand.close(world.personal["user"], users, atol=1e-4)


def test_fedprox_pulls_the_rows_that_a_client_touches_and_not_its_own_vector():
    mu = 0.6
    world = World(FedAvg(**SMALL, proximal=mu, batch_size=5, local_epochs=2))
    table, users = world.shared["item"].values, world.personal["user"]
    for number in range(2):
        tables = []
        for client in CLIENTS:
            rows = table.copy()
            touched = np.unique(world.pairs(number, client)["item"])
            for batch in world.batches(number, client, 5, 2):
                slope, of_user = by_hand.factorization(rows, users[client], batch)
                slope = slope + mu * (rows - table)
                rows[touched] -= RATE * SCALE * slope[touched]
                users[client] -= RATE * of_user
            tables.append(rows)
        table = averaged(table, tables, weights_of("examples"))
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.personal["user"], users)
