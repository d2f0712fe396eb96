"""Rounds of PFedRec, FedNCF and FedMF on implicit feedback, derived in NumPy."""

import jax
import numpy as np
import pytest

from fedjax_rec import SGD, Adam, FedMF, FedNCF, Mean, PFedRec
from fedjax_rec.models import by_id
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
def test_plain_fedncf_moves_all_by_one_gradient_and_averages_items_and_layers(weights):
    """The baseline of later papers: SGD, and the mean of all parts."""
    rule = None if weights is None else Mean(weights=weights)
    settings = {name: x for name, x in SMALL.items() if name != "client_lr"}
    algorithm = FedNCF(
        **settings, hidden=(4, 3), averaging="plain", client_optimizer=SGD(lr=RATE)
    )
    world = World(algorithm, aggregation=rule)
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


class _Adam:
    """Kingma and Ba, algorithm 1, of one client in one round."""

    def __init__(self, parts, lr):
        self.lr, self.t = lr, 0
        self.m = self.v = _scaled(parts, 0)

    def step(self, parts, gradient):
        self.t += 1
        self.m = _plus(_scaled(self.m, 0.9), _scaled(gradient, 0.1))
        squares = jax.tree.map(np.square, gradient)
        self.v = _plus(_scaled(self.v, 0.999), _scaled(squares, 0.001))
        first, second = 1 - 0.9**self.t, 1 - 0.999**self.t

        def move(x, m, v):
            return x - self.lr * (m / first) / (np.sqrt(v / second) + 1e-8)

        return jax.tree.map(move, parts, self.m, self.v)


def test_fedncf_averages_items_over_their_clients_and_the_network_by_examples():
    """The paper's version, MF-FedAvg after local Adam."""
    lr = 0.05
    algorithm = FedNCF(
        dim=3,
        hidden=(4, 3),
        client_optimizer=Adam(lr=lr),
        batch_size=BATCH,
        negatives=2,
        init_scale=0.5,
    )
    assert algorithm.local_epochs == 2
    world = World(algorithm)
    shared, users = world.shared, world.personal["user"]
    table, mlp = shared["item"].values, shared["mlp"]
    for number in range(2):
        moves, counts = np.zeros_like(table), np.zeros(ITEMS)
        new_mlp = _scaled(mlp, 0)
        for client in CLIENTS:
            parts = [table.copy(), mlp, users[client]]
            adam, touched = _Adam(parts, lr), set()
            for batch in world.batches(number, client, BATCH, 2):
                gradient = list(by_hand.perceptron_gradient(*parts, batch))
                parts = adam.step(parts, gradient)
                touched |= set(batch["item"])
            moves += parts[0] - table
            counts[list(touched)] += 1
            new_mlp = _plus(
                new_mlp, _scaled(parts[1], EXAMPLES[client] / EXAMPLES.sum())
            )
            users[client] = parts[2]
        assert len(set(counts)) > 1
        table, mlp = table + moves / np.maximum(counts, 1)[:, None], new_mlp
        world.simulation.advance(1)
        # Adam divides by the root of small squares, which magnifies rounding.
        by_hand.close(world.shared["item"].values, table, atol=3e-4)
        by_hand.close(world.shared["mlp"], mlp, atol=3e-4)
        by_hand.close(world.personal["user"], users, atol=3e-4)


def test_the_defaults_of_fedncf_are_the_papers():
    settings = FedNCF()
    assert (settings.dim, settings.hidden) == (12, (48, 24, 12, 6))
    assert (settings.client_optimizer, settings.local_epochs) == (Adam(lr=1e-3), 2)
    model = by_id.neural_cf(4000, 12, settings.hidden, init_scale=None)
    shared = model.init(jax.random.key(0)).shared
    weights = [layer["w"] for layer in shared["mlp"]] + [shared["item"].values]
    assert [w.shape for w in weights[:2]] == [(24, 48), (48, 24)]
    for w in weights[:2] + weights[-1:]:
        assert float(w.std()) == pytest.approx((2 / sum(w.shape)) ** 0.5, rel=0.1)
    with pytest.raises(ValueError, match=r"item_lr_scale=5.* is a factor of plain SGD"):
        FedNCF(item_lr_scale=5.0)


def _scaled(layers, factor):
    return jax.tree.map(lambda x: factor * x, layers)


def _plus(a, b):
    return jax.tree.map(np.add, a, b)
