"""Rounds of FedFM: the loss in NumPy, its gradients by finite differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    BackboneConfig,
    EmbeddingAdapter,
    FedFM,
    Joint,
    LoRA,
    Protocol,
    Reconstruction,
    VectorAndHistory,
)
from tests import by_hand
from tests.by_hand import CLIENTS, EXAMPLES, ITEMS, World

NEGATIVES, RATE, USER_RATE, SCALE, SERVER, ADAPTER, L2 = 2, 0.3, 0.7, 1.5, 0.5, 2.0, 0.4
SMALL: dict[str, Any] = {
    "adapter": EmbeddingAdapter(rank=2),
    "dim": 3,
    "training": Joint(optimizer=SGD(lr=RATE)),
    "user_lr": USER_RATE,
    "user_l2": L2,
    "negatives": NEGATIVES,
    "server_optimizer": SGD(lr=SERVER),
    "adapter_lr_scale": ADAPTER,
}
WORDS = ("red", "sea", "oak", "ship", "man")
TITLES = [f"{WORDS[i % 5]} {WORDS[i % 3]}{i}" for i in range(ITEMS)]
SHARE = EXAMPLES / EXAMPLES.sum()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    root = tmp_path_factory.getbasetemp() / "rounds"
    monkeypatch.setenv("FEDJAX_REC_CACHE", str(root))


def world_of(**fields):
    parts = {"protocol": fields.pop("protocol")} if "protocol" in fields else {}
    algorithm = FedFM(**{**SMALL, **fields})
    return World(algorithm, TITLES, backbone=BackboneConfig(name="tiny"), **parts)


def attention(group, embedding, history):
    """The sum over heads of values of a softmax over the last items."""
    own = history[history < ITEMS]
    if not len(own):
        return np.zeros_like(group["bias"])
    e, vector = embedding[own], group["bias"]
    for head in range(group["query"].shape[1]):
        x = e @ group["query"][:, head] + group["recency"][: len(own), head]
        share = np.exp(x) / np.exp(x).sum()
        vector = vector + (share @ e) @ group["value"][head]
    return vector


def vectors_of(groups, embedding):
    """`W (e + e A B) + w + q` of all items."""
    net = groups["embedding_adapter"]
    z = embedding + embedding @ net["down"]["w"] @ net["up"]["w"]
    z = z @ groups["head"]["w"] + groups["head"]["b"]
    return z + groups["item"].values if "item" in groups else z


def loss_of(groups, vectors, pairs, client, embedding=None):
    """Softmax with log-Q correction over each positive and its negatives."""
    items = pairs["text"].reshape(-1, 1 + NEGATIVES)
    user = np.broadcast_to(
        groups["common"]["user"] + groups["user"], (len(items), SMALL["dim"])
    )
    if "history" in groups:
        before = pairs["history"].reshape(*items.shape, -1)[:, 0]
        group = groups["history"]
        user = user + np.array([attention(group, embedding, h) for h in before])
    x = (vectors[items] * user[:, None]).sum(-1)
    # Drawn without replacement outside the client's items.
    x[:, 1:] -= np.log(NEGATIVES / (ITEMS - EXAMPLES[client]))
    value = (np.log(np.exp(x).sum(1)) - (x + 0)[:, 0]).mean()
    return value + 0.5 * L2 * (groups["user"] ** 2).sum()


def moved(groups, gradient, rates):
    """Each group one step down."""
    return {
        name: jax.tree.map(lambda x, g, r=rates[name]: x - r * g, part, gradient[name])
        for name, part in groups.items()
    }


def served(shared, changes):
    """The server's step along the mean of the changes, weighted by examples."""
    result = {}
    for name, part in shared.items():
        rate = SERVER * (ADAPTER if name.endswith(("adapter", "_a", "_b")) else 1)
        parts = [change[name] for change in changes]
        result[name] = jax.tree.map(
            lambda x, *d, r=rate: x + r * np.tensordot(SHARE, np.stack(d), 1),
            part,
            *parts,
        )
    return result


def difference(after, before):
    return jax.tree.map(np.subtract, after, before)


CASES = {
    "one step, ids": {"id_residual": True, "item_lr_scale": SCALE},
    "two steps": {"training": Joint(epochs=2, optimizer=SGD(lr=RATE))},
    "history": {"users": VectorAndHistory(length=2, heads=2)},
}


@pytest.mark.parametrize("name", CASES)
def test_joint_steps_follow_the_gradient_of_the_loss(name):
    world = world_of(**CASES[name])
    embedding = by_hand.in_float64(world.simulation.frozen["embedding"])
    shared, users = world.shared, world.personal["user"]
    steps = 2 if name == "two steps" else 1
    for number in range(2):
        changes = []
        for client in CLIENTS:
            pairs = world.pairs(number, client)
            groups = {**shared, "user": users[client]}
            rates = dict.fromkeys(groups, RATE)
            rates |= {"user": USER_RATE, "item": RATE * SCALE}
            for _ in range(steps):
                gradient = by_hand.differences(
                    lambda g, p=pairs, c=client: loss_of(
                        g, vectors_of(g, embedding), p, c, embedding
                    ),
                    groups,
                )
                groups = moved(groups, gradient, rates)
            users[client] = groups.pop("user")
            changes.append(difference(groups, shared))
        shared = served(shared, changes)
        world.simulation.advance(1)
        by_hand.close(world.shared, shared, atol=5e-5)
        by_hand.close(world.personal["user"], users, atol=5e-5)


def test_reconstruction_fits_the_user_from_zero_and_moves_the_shared_part_once():
    protocol = Protocol(evaluated="reconstructed", cutoffs=(5,), selection="ndcg@5")
    training = Reconstruction(steps=3, lr=RATE)
    world = world_of(training=training, protocol=protocol)
    embedding = by_hand.in_float64(world.simulation.frozen["embedding"])

    def fitted(shared, number, client):
        pairs = world.pairs(number, client)
        vectors, user = vectors_of(shared, embedding), np.zeros(3)
        for _ in range(3):
            slope = by_hand.differences(
                lambda u: loss_of({**shared, "user": u}, vectors, pairs, client), user
            )
            user = user - USER_RATE * slope
        return user

    shared = world.shared
    for number in range(2):
        changes, users = [], np.zeros((3, 3))
        for client in CLIENTS:
            users[client] = fitted(shared, number, client)
            gradient = by_hand.differences(
                lambda g, n=number, c=client, u=users[client]: loss_of(
                    {**g, "user": u}, vectors_of(g, embedding), world.pairs(n, c), c
                ),
                shared,
            )
            changes.append(jax.tree.map(lambda g: -RATE * g, gradient))
        shared = served(shared, changes)
        world.simulation.advance(1)
        by_hand.close(world.shared, shared, atol=5e-5)
        by_hand.close(world.personal["user"], users, atol=5e-5)
    # Users are scored by vectors fitted to the newest shared part.
    vectors = vectors_of(shared, embedding)
    scores = [
        vectors @ (shared["common"]["user"] + fitted(shared, 2, client))
        for client in CLIENTS
    ]
    got = world.simulation.evaluate("test")
    wanted = by_hand.mean_metrics(world.simulation, "test", scores)
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)


def test_lora_follows_the_loss_through_the_backbone():
    """Forward passes of the package in float32, differences instead of its gradients.

    While B is zero, A has no gradient; then both move.
    """
    world = world_of(adapter=LoRA(rank=1), user_l2=0.0)
    simulation = world.simulation
    lift: Any = simulation.recipe.model.lift
    start = np.random.default_rng(0).normal(size=(len(CLIENTS), 3))
    simulation.personal = {"user": jnp.asarray(start, jnp.float32)}
    encode = jax.jit(lambda s: lift(s, simulation.frozen)["vectors"].values)
    shared, users = world.shared, world.personal["user"]
    for number in range(2):
        wanted = dict.fromkeys(("lora_a", "lora_b"), 0.0)
        for client in CLIENTS:
            pairs, user = world.pairs(number, client), users[client]

            def loss(part, p=pairs, c=client, u=user, s=shared):
                vectors = np.asarray(encode({**s, **part}), np.float64)
                groups = {"common": s["common"], "user": u}
                return loss_of(groups, vectors, p, c) - 0.5 * L2 * (u**2).sum()

            part = {name: shared[name] for name in wanted}
            gradient = by_hand.differences(loss, part, step=1e-2)
            factor = -RATE * SERVER * ADAPTER * SHARE[client]
            for name, group in gradient.items():
                flat = np.concatenate([x.ravel() for x in jax.tree.leaves(group)])
                wanted[name] = wanted[name] + factor * flat
        simulation.advance(1)
        after = world.shared
        for name, step in wanted.items():
            changed = difference(after[name], shared[name])
            got = np.concatenate([x.ravel() for x in jax.tree.leaves(changed)])
            scale = np.abs(step).max()
            assert (scale > 1e-4) == (number == 1 or name != "lora_a")
            np.testing.assert_allclose(got, step, atol=max(0.02 * scale, 1e-5))
        shared, users = after, world.personal["user"]
