"""FedMF against its authors' published trace, and against NumPy."""

import csv
import json
import os
import pathlib
import runpy
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec
from tests import by_hand

DATA = pathlib.Path(
    os.environ.get(
        "FEDJAX_REC_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data"
    )
)
GOLDEN, RATINGS = DATA / "golden" / "fedmf.json", DATA / "ml-latest-small"
needs_data = pytest.mark.skipif(
    not (GOLDEN.exists() and RATINGS.exists()),
    reason=f"needs golden/fedmf.json and ml-latest-small in {DATA} (FEDJAX_REC_DATA)",
)


def numpy_ratings():
    """The slice, derived from the file without the library: `{user: [(item, r)]}`."""
    with open(RATINGS / "ratings.csv", newline="") as file:
        ratings = [
            (
                int(r["userId"]),
                int(r["movieId"]),
                float(r["rating"]),
                int(r["timestamp"]),
            )
            for r in csv.DictReader(file)
        ]
    seen: dict[int, int] = {}
    for _, item, _, _ in ratings:
        seen.setdefault(item, len(seen))
    counts = Counter(item for _, item, _, _ in ratings)
    top = sorted(counts, key=lambda i: (-counts[i], seen[i]))[:40]
    number = {item: k for k, item in enumerate(top)}
    users = {}
    for user in sorted({r[0] for r in ratings})[:10]:
        mine = [r for r in ratings if r[0] == user and r[1] in number]
        if len(mine) >= 5:
            mine.sort(key=lambda r: r[3])
            users[user] = [(number[r[1]], r[2]) for r in mine]
    return users


def numpy_trace(users, central, iterations=175, lr=1e-3, l2=1e-4, dim=100):
    """Chai et al.'s algorithm, rating by rating; `central` updates items in place."""
    train = {u: r[:-3] for u, r in users.items()}
    vectors = {u: np.full(dim, 0.01) for u in users}
    items, losses = np.full((40, dim), 0.01), []
    for _ in range(iterations):
        received = items if central else items.copy()
        for user, ratings in train.items():
            for item, rating in ratings:
                q = received[item].copy()
                error = rating - vectors[user] @ q
                vectors[user] = vectors[user] - lr * (
                    -2 * error * q + 2 * l2 * vectors[user]
                )
                items[item] -= lr * (-2 * error * vectors[user] + 2 * l2 * q)
        losses.append(mean_square(train, vectors, items))
    test = {u: r[-3:] for u, r in users.items()}
    return np.array(losses), np.sqrt(mean_square(test, vectors, items))


def mean_square(users, vectors, items):
    return np.mean(
        [(r - vectors[u] @ items[i]) ** 2 for u, rs in users.items() for i, r in rs]
    )


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@needs_data
def test_the_derivation_gives_the_centralized_log(golden):
    losses, rmse = numpy_trace(numpy_ratings(), central=True)
    np.testing.assert_allclose(losses, golden["centralized"]["loss"], rtol=0, atol=1e-9)
    assert abs(rmse - golden["centralized"]["test_rmse"]) < 1e-6  # as printed


@needs_data
def test_the_engine_gives_the_federated_trace(golden, tmp_path):
    config = load_config("fedmf_golden")
    data = fedjax_rec.FileData(
        **{**vars(config.data), "dir": str(RATINGS), "cache": str(tmp_path)}
    )
    with jax.enable_x64(True):
        config = fedjax_rec.Experiment(**{**vars(config), "data": data})
        simulation = fedjax_rec.build(config)
        evaluations = [e for e in simulation.events() if e["event"] == "evaluation"]
    losses = np.array([e["rmse_train"] for e in evaluations]) ** 2
    expected, rmse = numpy_trace(numpy_ratings(), central=False)
    assert len(losses) == 175
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(losses, golden["federated"]["loss"], rtol=0, atol=3.5e-4)
    assert abs(evaluations[-1]["rmse_test"] - rmse) < 1e-9
    assert abs(evaluations[-1]["rmse_test"] - golden["federated"]["test_rmse"]) < 3.5e-4


def test_two_rounds_over_three_clients():
    """The released code's pass over the ratings, with factors of its own for each term.

    The user moves first; the item's gradient has the new user vector and the old error.
    """
    lr, scale, l2_user, l2_item = 0.02, 1.5, 0.3, 0.2
    algorithm = fedjax_rec.FedMF(
        feedback="explicit",
        dim=3,
        client_lr=lr,
        item_lr_scale=scale,
        user_l2=l2_user,
        item_l2=l2_item,
        init_scale=0.5,
    )
    ratings = np.random.default_rng(1).integers(1, 6, sum(by_hand.SIZES))
    world = by_hand.World(algorithm, ratings=ratings)
    items, users = world.shared["item"].values, world.personal["user"]
    for number in range(2):
        total, squares = np.zeros_like(items), []
        for client in by_hand.CLIENTS:
            pairs, p = world.pairs(number, client), users[client]
            for item, rating in zip(pairs["item"], pairs["label"], strict=True):
                q = items[item]
                error = rating - p @ q
                squares.append(error**2)
                p = p - lr * (-2 * error * q + 2 * l2_user * p)
                total[item] -= lr * scale * (-2 * error * p + 2 * l2_item * q)
            users[client] = p
        items = items + total
        loss = world.simulation.advance(1)["loss"][0]
        np.testing.assert_allclose(loss, np.mean(squares), rtol=1e-5)
        by_hand.close(world.shared["item"].values, items)
        by_hand.close(world.personal["user"], users)
    assert np.ptp(ratings) == 4


def load_config(name):
    path = pathlib.Path(__file__).parents[2] / "configs" / f"{name}.py"
    return runpy.run_path(str(path))["get_config"]()


def test_simultaneous_gradients_are_those_of_the_objective():
    """The paper's equations, with the term of each vector once; two rounds in NumPy."""
    lr, l2 = 0.01, (0.3, 0.2)
    algorithm = fedjax_rec.FedMF(
        feedback="explicit",
        gradients="simultaneous",
        dim=3,
        client_lr=lr,
        user_l2=l2[0],
        item_l2=l2[1],
    )
    simulation = by_hand.World(algorithm).simulation
    data = jax.tree.map(jnp.asarray, simulation.data)
    items = by_hand.in_float64(simulation.state.shared)["item"].values
    users = by_hand.in_float64(simulation.personal)["user"]
    for _ in range(2):
        gradient, squares, count = 2 * l2[1] * items, 0.0, 0
        for client in by_hand.CLIENTS:
            row = jax.tree.map(np.asarray, data.examples(jnp.int32(client), 0))
            real = row["mask"]
            ids, ratings = row["item"][real], row["rating"][real]
            error = ratings - items[ids] @ users[client]
            squares, count = squares + np.square(error).sum(), count + len(ids)
            np.add.at(gradient, ids, -2 * error[:, None] * users[client])
            slope = -2 * error @ items[ids] + 2 * l2[0] * users[client]
            users[client] -= lr * slope
        items = items - lr * gradient
        loss = simulation.advance(1)["loss"][0]
        np.testing.assert_allclose(loss, squares / count, rtol=1e-5)
        by_hand.close(simulation.state.shared["item"].values, items)
        by_hand.close(simulation.personal["user"], users)
