"""Rounds of wrapped systems over three clients, derived in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import (
    IFCA,
    SGD,
    FedAvg,
    Freeze,
    MatrixFactorization,
    Mean,
    NeuralCF,
    Scaffold,
)
from fedjax_rec.wrappers.clustered import CLUSTER
from fedjax_rec.wrappers.scaffold import CONTROL, OWN
from tests import by_hand
from tests.by_hand import CLIENTS, EXAMPLES, World

RATE, SCALE = 0.4, 3.0
AVERAGED = FedAvg(
    model=MatrixFactorization(dim=3, init_scale=0.9),
    client_optimizer=SGD(lr=RATE),
    item_lr_scale=SCALE,
    negatives=2,
)


def loss_of(table, user, batch):
    logits = table[batch["item"]] @ user
    return np.mean(np.log1p(np.exp(logits)) - batch["label"] * logits)


def test_ifca_trains_the_model_with_the_least_loss_and_averages_within_clusters():
    world = World(AVERAGED, wrapper=IFCA(clusters=2), aggregation=Mean())
    users, simulation = world.personal["user"], world.simulation
    tables = np.moveaxis(world.shared["item"].values, 1, 0)  # stored item by item
    assert tables.shape == (2, by_hand.ITEMS, 3)
    # Client 1 likes the second model's items, and the other two dislike them.
    for client in CLIENTS:
        pairs = world.pairs(0, client)
        toward = (2 * pairs["label"] - 1)[:, None] * users[client]
        np.add.at(tables[int(client == 1)], pairs["item"], toward)
    values = jnp.asarray(np.moveaxis(tables, 0, 1), jnp.float32)
    shared = simulation.state.shared
    item = jax.tree.map(lambda _: values, shared["item"])
    simulation.state = dataclasses.replace(
        simulation.state, shared={**shared, "item": item}
    )
    taken = []
    for number in range(2):
        sums, weight = np.zeros_like(tables), np.zeros(2)
        for client in CLIENTS:
            batch = world.pairs(number, client)
            losses = [loss_of(table, users[client], batch) for table in tables]
            best = int(np.argmin(losses))
            taken.append(best)
            of_rows, of_user = by_hand.factorization(tables[best], users[client], batch)
            users[client] -= RATE * of_user
            sums[best] -= EXAMPLES[client] * RATE * SCALE * of_rows
            weight[best] += EXAMPLES[client]
        tables = tables + sums / np.maximum(weight, 1)[:, None, None]
        simulation.advance(1)
        got = np.moveaxis(world.shared["item"].values, 1, 0)
        by_hand.close(got, tables)
        by_hand.close(world.personal["user"], users)
        np.testing.assert_array_equal(
            world.personal[CLUSTER].argmax(1), taken[-len(CLIENTS) :]
        )
    assert set(taken) == {0, 1}


def test_scaffold_corrects_the_rows_that_a_client_touches():
    """Algorithm 1, option II; rows outside of a client's batches stay."""
    world = World(AVERAGED, wrapper=Scaffold(), aggregation=Mean(weights="uniform"))
    table, users = world.shared["item"].values, world.personal["user"]
    c, own = np.zeros_like(table), np.zeros((len(CLIENTS), *table.shape))
    rate = RATE * SCALE
    for number in range(2):
        deltas, changes = [], []
        for client in CLIENTS:
            batch = world.pairs(number, client)
            touched = np.unique(batch["item"])
            of_rows, of_user = by_hand.factorization(table, users[client], batch)
            y = table.copy()
            y[touched] -= rate * (of_rows - own[client] + c)[touched]
            users[client] -= RATE * of_user
            new = own[client].copy()
            new[touched] = (own[client] - c + (table - y) / rate)[touched]
            deltas.append(y - table)
            changes.append(new - own[client])
            own[client] = new
        table, c = table + np.mean(deltas, 0), c + np.sum(changes, 0) / len(CLIENTS)
        world.simulation.advance(1)
        by_hand.close(world.shared["item"].values, table)
        by_hand.close(world.shared[CONTROL]["item"].values, c)
        by_hand.close(world.personal[OWN]["item"].values, own)
        by_hand.close(world.personal["user"], users)


def test_frozen_layers_stay_while_items_and_users_train_through_them():
    model = NeuralCF(dim=3, init_scale=0.9)
    algorithm = dataclasses.replace(AVERAGED, model=model, local_epochs=2)
    freeze = Freeze(groups=("mlp",))
    world = World(algorithm, wrapper=freeze, aggregation=Mean(), rounds=1)
    shared, users = world.shared, world.personal["user"]
    table, mlp = shared["item"].values, shared["mlp"]
    tables = []
    for client in CLIENTS:
        rows = table.copy()
        for batch in world.batches(0, client, epochs=2):
            of_rows, _, of_user = by_hand.perceptron_gradient(
                rows, mlp, users[client], batch
            )
            rows -= RATE * SCALE * of_rows
            users[client] -= RATE * of_user
        tables.append(rows)
    world.simulation.advance(1)
    wanted = np.average(tables, 0, EXAMPLES)
    by_hand.close(world.shared["item"].values, wanted)
    by_hand.close(world.shared["mlp"], mlp, atol=0)
    by_hand.close(world.personal["user"], users)
