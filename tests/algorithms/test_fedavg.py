"""FedAvg: one full-batch step is centralized SGD; adaptive servers by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.algorithms.fedavg import FedAvg
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import ClientResult
from fedjax_rec.core.optimizers import (
    SGD,
    Adam,
    FedAdagrad,
    FedAdam,
    FedAvgM,
    FedYogi,
)
from fedjax_rec.core.rounds import Cohort
from fedjax_rec.data.clients import make_client_data
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.data.partition import Partition, PerUser
from fedjax_rec.models.settings import MatrixFactorization
from fedjax_rec.simulation.personal import initial_personal
from fedjax_rec.simulation.round import client_key, federated

ITEMS, SIZES, NEGATIVES, RATE = 30, [1, 2, 9, 5, 3, 9], 2, 2.0
USERS = len(SIZES)
ROOT = jax.random.key(21)


def interactions():
    rng = np.random.default_rng(2)
    item = [rng.choice(ITEMS, s, replace=False) for s in SIZES]
    return make_interactions(
        user=np.repeat(np.arange(USERS), SIZES),
        item=np.concatenate(item),
        users=Entities(ids=[f"u{u}" for u in range(USERS)]),
        items=Entities(ids=[f"i{i}" for i in range(ITEMS)]),
    )


TRAIN = interactions()
PARTS = {
    "personal": PerUser().partition(TRAIN),
    "table": Partition(
        client=np.random.default_rng(4).choice(4, len(TRAIN), p=[0.6, 0.2, 0.1, 0.1]),
        num_clients=4,
        name="uneven, users mixed",
        user_of_client=None,
    ),
}


def averaged(
    dim=32, init_scale=0.1, users: Any = "personal", model=MatrixFactorization, **fields
):
    """The recipe of a FedAvg, with its default rule: the weighted mean of the paper."""
    context = Context(
        num_items=ITEMS,
        num_users=USERS,
        num_clients=USERS,
        cohort_size=USERS,
        dtype=jnp.dtype("float32"),
        examples=np.asarray(SIZES),
    )
    model = model(dim=dim, init_scale=init_scale, users=users)
    return FedAvg(model=model, **fields).build(context)


class Run:
    """A recipe with everybody in its cohort."""

    def __init__(self, recipe, part):
        self.recipe = recipe
        self.data = make_client_data(TRAIN, part, max_buckets=1)
        n = self.data.num_clients
        algorithm = federated(recipe, (n,))
        self.state = algorithm.init(ROOT)
        personal = initial_personal(recipe, ROOT, n)
        ids = jnp.arange(n, dtype=jnp.int32)
        self.cohort = Cohort(ids=ids, rows=ids, personal=personal)
        self._round = jax.jit(algorithm.round)

    def round(self):
        """State, cohort and metrics after one more round; these stay as they are."""
        hparams = self.recipe.hparams
        return self._round(self.state, self.cohort, self.data, (), hparams, ROOT)


def pairs_of(run):
    """What each client trains on: a list of `(user, item, label)` arrays."""

    @jax.jit
    def draw(client):
        key = client_key(ROOT, jnp.int32(0), client)
        first, _, _ = jax.random.split(key, 3)
        return run.recipe.local.draw(run.data.examples(client, 0), first)

    found = []
    for client in range(run.data.num_clients):
        pairs = jax.device_get(draw(jnp.int32(client)))
        real = pairs["mask"]
        found.append([pairs[name][real] for name in ("user", "item", "label")])
    return found


def mean_bce_gradient(users, items, pairs):
    """Of the mean over pairs of the cross-entropy of `p_u . q_i`, and its value."""
    user, item, label = pairs
    logit = (users[user] * items[item]).sum(1)
    slope = (1 / (1 + np.exp(-logit)) - label) / len(label)
    of_users, of_items = np.zeros_like(users), np.zeros_like(items)
    np.add.at(of_users, user, slope[:, None] * items[item])
    np.add.at(of_items, item, slope[:, None] * users[user])
    loss = np.mean(np.log1p(np.exp(logit)) - label * logit)
    return of_users, of_items, loss


# A client's step descends the mean over its own n_c (1 + negatives) pairs. Weighing
# clients by n_c, their positives, turns the mean of those means into the mean over all
# pairs, because every positive brings as many negatives (as long as none runs out of
# items). Uniform weights would not.
@pytest.mark.parametrize("users", ["table", "personal"])
def test_one_full_batch_step_is_centralized_sgd(users):
    recipe = averaged(
        users=users,
        dim=4,
        client_optimizer=SGD(lr=RATE),
        batch_size=4096,
        negatives=NEGATIVES,
        init_scale=0.5,
    )
    mixed = users == "table"
    run = Run(recipe, PARTS[users])
    data, state, personal = run.data, run.state, run.cohort.personal
    new, cohort, metrics = run.round()
    assert len(set(data.interactions.size.tolist())) > 2  # weights matter
    pairs = pairs_of(run)
    pooled = [np.concatenate(column) for column in zip(*pairs, strict=True)]
    assert len(pooled[0]) == (1 + NEGATIVES) * len(TRAIN)
    start = np.asarray(state.shared["user"].values if mixed else personal["user"])
    items = np.asarray(state.shared["item"].values, np.float64)
    vectors = start.astype(np.float64)
    user_gradient, item_gradient, loss = mean_bce_gradient(vectors, items, pooled)
    got = np.asarray(new.shared["item"].values)
    np.testing.assert_allclose(got, items - RATE * item_gradient, atol=2e-6)
    assert np.abs(RATE * item_gradient).max() > 0.01
    assert float(metrics["loss"]) == pytest.approx(loss, rel=1e-5)
    if mixed:
        expected = vectors - RATE * user_gradient
        np.testing.assert_allclose(new.shared["user"].values, expected, atol=2e-6)
        return
    # What stays at home is averaged with nobody: a client's own mean, not the pool's.
    for client, own in enumerate(pairs):
        gradient = mean_bce_gradient(vectors, items, own)[0][client]
        expected = vectors[client] - RATE * gradient
        np.testing.assert_allclose(cohort.personal["user"][client], expected, atol=2e-6)


LR, BETA, TAU, BETA2 = 0.1, 0.8, 0.05, 0.99


# The servers of Reddi et al., algorithm 2, as optax writes them: where the paper
# starts v at tau^2 and corrects no bias, Adam and Yogi correct it, Yogi starts m and v
# at 1e-6, and Adagrad has no momentum, starts v at .1 and adds tau under the root.
def momentum(delta, m, v, t):
    m = BETA * m + delta
    return LR * m, m, v


def adagrad(delta, m, v, t):
    v = v + delta**2
    return LR * delta / np.sqrt(v + TAU), m, v


def corrected(m, v, t):
    return LR * m / (1 - BETA**t) / (np.sqrt(v / (1 - BETA2**t)) + TAU)


def adam(delta, m, v, t):
    m = BETA * m + (1 - BETA) * delta
    v = BETA2 * v + (1 - BETA2) * delta**2
    return corrected(m, v, t), m, v


def yogi(delta, m, v, t):
    m = BETA * m + (1 - BETA) * delta
    v = v - (1 - BETA2) * delta**2 * np.sign(v - delta**2)
    return corrected(m, v, t), m, v


# Optimizer, its step by hand, and the initial `m` and `v`.
SERVERS = [
    (SGD(lr=LR), lambda delta, m, v, t: (LR * delta, m, v), 0, 0),
    (FedAvgM(lr=LR, momentum=BETA), momentum, 0, 0),
    (FedAdagrad(lr=LR, tau=TAU), adagrad, 0, 0.1),
    (FedAdam(lr=LR, momentum=BETA, tau=TAU), adam, 0, 0),
    (FedYogi(lr=LR, momentum=BETA, tau=TAU), yogi, 1e-6, 1e-6),
]


@pytest.mark.parametrize(
    ("optimizer", "step_of", "m", "v"), SERVERS, ids=lambda x: type(x).__name__
)
def test_two_rounds_of_each_server_by_hand(optimizer, step_of, m, v):
    recipe = averaged(dim=2, server_optimizer=optimizer)
    target = np.random.default_rng(3).normal(size=(ITEMS, 2)).astype(np.float32)

    def towards(params, frozen, examples, hparams, key):
        """A client that asks for the difference to a target, times its size."""
        weight = examples["mask"].sum().astype(jnp.float32)
        values = (target - params.shared["item"].values) * weight
        return ClientResult(
            delta={"item": rows.Rows(ids=jnp.arange(ITEMS), values=values)},
            personal=params.personal,
            weight=weight,
            metrics={"loss": jnp.zeros(())},
        )

    run = Run(recipe._replace(client_update=towards), PARTS["personal"])
    expected = np.asarray(run.state.shared["item"].values, np.float64)
    sizes = np.array(SIZES)
    share = (sizes**2).sum() / sizes.sum()  # of the difference, in the weighted mean
    for t in (1, 2):
        run.state, _, _ = run.round()
        step, m, v = step_of(share * (target - expected), m, v, t)
        expected = expected + step
        np.testing.assert_allclose(
            run.state.shared["item"].values, expected, rtol=2e-5, atol=2e-5
        )
    assert int(run.state.round) == 2


@pytest.mark.parametrize("users", ["personal", "table"])
def test_fedprox_is_continuous_in_mu(users):
    """A small pull neither changes the rows' rate nor holds the personal vector."""

    def trained(mu):
        fields = {
            "client_optimizer": SGD(lr=0.1),
            "item_lr_scale": 40.0,
            "users": users,
        }
        recipe = averaged(
            **fields, dim=4, batch_size=8, negatives=1, local_epochs=2, proximal=mu
        )
        state, cohort, _ = Run(recipe, PARTS[users]).round()
        return jax.device_get((state.shared, cohort.personal))

    plain, tiny, pulled = trained(0.0), trained(1e-7), trained(0.1)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), tiny, plain)
    assert np.abs(pulled[0]["item"].values - plain[0]["item"].values).max() > 1e-3


def test_a_rate_of_rows_that_no_step_reads_is_refused():
    with pytest.raises(ValueError, match="has no effect with another optimizer"):
        FedAvg(client_optimizer=Adam(), item_lr_scale=40.0)
