"""Rounds of PFedRec, FedNCF and FedMF on implicit feedback, derived in NumPy."""

import jax
import numpy as np
import pytest

from fedjax_rec import FedMF, FedNCF, Mean, PFedRec
from tests import by_hand
from tests.by_hand import CLIENTS, EXAMPLES, ITEMS, World

RATE, SCALE, BATCH, EPOCHS = 0.2, 1.5, 8, 2
ROW_RATE = RATE * ITEMS * SCALE
SMALL = {
    "dim": 3,
    "client_lr": RATE,
    "item_lr_scale": SCALE,
    "batch_size": BATCH,
    "local_epochs": EPOCHS,
    "negatives": 2,
    "init_scale": 0.5,
}


def test_pfedrec_trains_the_scorer_then_the_items_and_averages_the_tables():
    """Algorithm 1: the items' step sees the scorer that the same batch has moved."""
    world = World(PFedRec(**SMALL))
    table, scorers = world.shared["item"].values, world.personal["scorer"]
    assert np.ptp(scorers["w"], axis=0).max() == 0  # all start from one scorer
    assert np.ptp(scorers["b"]) == 0
    for number in range(2):
        tables = []
        for client in CLIENTS:
            own, rows = by_hand.of_client(scorers, client), table.copy()
            for batch in world.batches(number, client, BATCH, EPOCHS):
                _, gradient = by_hand.scorer(rows, own, batch)
                own = {name: own[name] - RATE * gradient[name] for name in own}
                rows -= ROW_RATE * by_hand.scorer(rows, own, batch)[0]
            tables.append(rows)
            scorers["w"][client], scorers["b"][client] = own["w"], own["b"]
        table = np.mean(tables, 0)
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.personal["scorer"], scorers)
    assert np.ptp(scorers["w"], axis=0).min() > 0.01


def test_implicit_fedmf_trains_the_user_then_the_items_and_averages_the_tables():
    world = World(FedMF(**SMALL))
    table, users = world.shared["item"].values, world.personal["user"]
    assert np.ptp(users, axis=0).min() > 0  # each has a vector of its own
    for number in range(2):
        tables = []
        for client in CLIENTS:
            rows = table.copy()
            for batch in world.batches(number, client, BATCH, EPOCHS):
                users[client] -= (
                    RATE * by_hand.factorization(rows, users[client], batch)[1]
                )
                rows -= ROW_RATE * by_hand.factorization(rows, users[client], batch)[0]
            tables.append(rows)
        table = np.mean(tables, 0)
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.personal["user"], users)


@pytest.mark.parametrize("weights", [None, "uniform", "examples"])
def test_fedncf_moves_all_parts_by_one_gradient_and_averages_items_and_layers(weights):
    rule = None if weights is None else Mean(weights=weights)
    world = World(FedNCF(**SMALL, hidden=(4, 3)), aggregation=rule)
    share = EXAMPLES / EXAMPLES.sum() if weights == "examples" else np.full(3, 1 / 3)
    shared, users = world.shared, world.personal["user"]
    table, mlp = shared["item"].values, shared["mlp"]
    assert [layer["w"].shape for layer in mlp] == [(6, 4), (4, 3), (3, 1)]
    for number in range(2):
        new_table, new_mlp = np.zeros_like(table), _scaled(mlp, 0)
        for client in CLIENTS:
            rows, layers = table.copy(), mlp
            for batch in world.batches(number, client, BATCH, EPOCHS):
                of_rows, of_layers, of_user = by_hand.perceptron_gradient(
                    rows, layers, users[client], batch
                )
                rows -= ROW_RATE * of_rows
                layers = _plus(layers, _scaled(of_layers, -RATE))
                users[client] -= RATE * of_user
            new_table += share[client] * rows
            new_mlp = _plus(new_mlp, _scaled(layers, share[client]))
        table, mlp = new_table, new_mlp
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.shared["mlp"], mlp)
        by_hand.close(world.personal["user"], users)


def _scaled(layers, factor):
    return jax.tree.map(lambda x: factor * x, layers)


def _plus(a, b):
    return jax.tree.map(np.add, a, b)
