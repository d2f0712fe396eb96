"""SCAFFOLD against its algorithm in NumPy, dense and row by row."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import (
    SGD,
    Adam,
    BlockInt,
    Execution,
    Experiment,
    FedAvg,
    MatrixFactorization,
    NeuralCF,
    Scaffold,
    SyntheticData,
    Uniform,
    build,
)
from fedjax_rec.aggregators import means
from fedjax_rec.clients.local import Phase, local_steps, local_update
from fedjax_rec.core import rows
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Local, Model, Params, Recipe, Senders
from fedjax_rec.wrappers.scaffold import CONTROL, OWN, with_control

BATCH, CLIENTS = 2, 3


def context_of(recipe):
    return Context(
        num_items=ITEMS,
        num_users=CLIENTS,
        num_clients=CLIENTS,
        cohort_size=CLIENTS,
        dtype=np.float32,
        examples=np.ones(CLIENTS),
        recipe=recipe,
    )


def recipe_of(model, epochs, rule, **row_rate):
    """Local SGD of one phase on examples as they are."""
    phase = Phase(lambda h: optax.sgd(h["rate"]), **row_rate)
    return Recipe(
        model=model,
        client_update=local_update(
            model,
            lambda examples, key: dict(examples),
            (phase,),
            batch_size=BATCH,
            epochs=epochs,
            shuffle=False,
        ),
        aggregator=rule,
        server_optimizer=lambda h: optax.sgd(1.0),
        hparams={},
        local=Local(
            steps=local_steps(BATCH, epochs),
            rate=lambda h: h["rate"],
            row_rate=row_rate.get("row_rate"),
            corrections=True,
        ),
    )


def play(recipe, rate, cohorts, examples):
    """Yields shared and personal parameters after each round."""
    start, rule = recipe.model.init(jax.random.key(0)), recipe.aggregator
    shared, personal = start.shared, [start.personal] * CLIENTS

    @jax.jit
    def visit(acc, shared, own, examples):
        params = Params(shared=shared, personal=own)
        hparams = {"rate": jnp.float32(rate)}
        result = recipe.client_update(params, (), examples, hparams, jax.random.key(1))
        deltas = jax.tree.map(lambda x: x[None], result.delta)
        slot = jnp.zeros(1, jnp.int32)
        senders = Senders(slots=slot, ids=slot, loss=jnp.zeros(1))
        acc = rule.update(acc, deltas, result.weight[None], senders)
        return acc, result.personal

    @jax.jit
    def finish(acc, shared):
        delta, _, _ = rule.finish(acc, rule.start(shared), shared)
        return jax.tree.map(jnp.add, shared, delta)

    for present in cohorts:
        acc = rule.init(shared, CLIENTS)
        for i in present:
            acc, personal[i] = visit(acc, shared, personal[i], examples(i))
        shared = finish(acc, shared)
        yield shared, list(personal)


RATE, EPOCHS = 0.1, 3
# Clients differ in curvature and minimum: local steps drift apart.
CURVATURE = np.array([1.0, 4.0, 0.5])
MINIMUM = np.array([[0.0, 1], [2, -1], [-3, 5]])
EXAMPLES = np.array([2, 5, 3])  # 1, 3 and 2 batches an epoch
OPTIMUM = (CURVATURE[:, None] * MINIMUM).sum(0) / CURVATURE.sum()


def dense_model():
    def init(key):
        del key
        return Params(shared={"w": jnp.zeros(2)}, personal={"user": jnp.zeros(1)})

    def loss(params, frozen, batch, key, hparams):
        del frozen, key
        mask = batch["mask"]
        off = params.shared["w"] - batch["minimum"]
        each = 0.5 * batch["curvature"] * jnp.sum(off**2, -1)
        return jnp.sum(jnp.where(mask, each, 0)) / jnp.maximum(mask.sum(), 1), {}

    return Model(init, loss, lambda params, frozen, query, candidates: jnp.zeros(1))


def dense_examples(client):
    return {
        "mask": jnp.arange(6) < EXAMPLES[client],
        "curvature": jnp.full(6, CURVATURE[client], jnp.float32),
        "minimum": jnp.broadcast_to(jnp.float32(MINIMUM[client]), (6, 2)),
    }


@functools.cache
def dense(controlled=True):
    recipe = recipe_of(dense_model(), EPOCHS, means.weighted_mean(uniform=True))
    return Scaffold().build(context_of(recipe)) if controlled else recipe


@pytest.mark.parametrize("present", [(0, 1, 2), (0, 2)])
def test_the_algorithm_of_the_paper(present):
    x, c, own = np.zeros(2), np.zeros(2), np.zeros((3, 2))
    for shared, personal in play(dense(), RATE, [present] * 4, dense_examples):
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
    cohorts = [(0, 1, 2)] * 80
    *_, (scaffolded, _) = play(dense(), RATE, cohorts, dense_examples)
    *_, (averaged, _) = play(dense(False), RATE, cohorts, dense_examples)
    np.testing.assert_allclose(scaffolded["w"], OPTIMUM, atol=1e-3)
    assert np.linalg.norm(np.asarray(averaged["w"]) - OPTIMUM) > 0.05


def test_the_loss_is_the_clients_own_and_an_absent_client_keeps_its_variate():
    recipe = dense()
    start = recipe.model.init(jax.random.key(0))
    shared = {**start.shared, CONTROL: {"w": jnp.asarray([5.0, -7.0])}}
    own = {**start.personal, OWN: {"w": jnp.asarray([1.0, 2.0])}}
    update = jax.jit(recipe.client_update)

    def train(personal, examples, rate):
        params = Params(shared=shared, personal=personal)
        return update(params, (), examples, {"rate": rate}, jax.random.key(0))

    result = train(start.personal, dense_examples(0), 0.0001)
    # From w = 0 the loss is 1/2 |(0, 1)|^2, whatever the correction.
    assert float(result.metrics["loss"]) == pytest.approx(0.5, abs=0.01)
    absent = {**dense_examples(0), "mask": jnp.zeros(6, bool)}
    result = train(own, absent, 0.1)
    np.testing.assert_array_equal(result.personal[OWN]["w"], [1, 2])
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(result.delta))


ITEMS, D, ROW_EPOCHS = 6, 2, 2
ROW_RATE, DENSE_RATE = 0.2, 0.05
# Rows and targets of each client's examples, in order; no client has row 5, and client
# 0 has row 0 twice.
ITEM = [[0, 3, 0, 1], [1, 0], [4, 3, 1]]
TARGET = [np.random.default_rng(c).normal(size=(len(i), D)) for c, i in enumerate(ITEM)]
FULL = [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
PART = [[0, 2], [1], [0, 1], [2, 0]]


def row_model():
    """`1/2 |q_item + w - target|^2`: rows and a dense leaf move together."""

    def init(key):
        del key
        shared = {"item": rows.Table(values=jnp.ones((ITEMS, D))), "w": jnp.zeros(D)}
        return Params(shared=shared, personal={})

    def loss(params, frozen, batch, key, hparams):
        del frozen, key
        mask = batch["mask"]
        q = rows.lookup(params.shared["item"], batch["item"])
        off = q + params.shared["w"] - batch["target"]
        each = 0.5 * jnp.sum(off**2, -1)
        return jnp.sum(jnp.where(mask, each, 0)) / jnp.maximum(mask.sum(), 1), {}

    return Model(init, loss, lambda params, frozen, query, candidates: jnp.zeros(1))


def row_examples(client, width):
    """Padded with ids past the end and garbage."""
    item = np.full(width, ITEMS)
    target = np.full((width, D), 1e6)
    n = len(ITEM[client])
    item[:n], target[:n] = ITEM[client], TARGET[client]
    return {
        "mask": jnp.arange(width) < n,
        "item": jnp.asarray(item, jnp.int32),
        "target": jnp.asarray(target, jnp.float32),
    }


def play_rows(cohorts, width, per_row):
    rule = means.weighted_mean(uniform=True, per_row=per_row)
    recipe = recipe_of(
        row_model(), ROW_EPOCHS, rule, row_rate=lambda h: jnp.float32(ROW_RATE)
    )
    recipe = Scaffold().build(context_of(recipe))
    return play(recipe, DENSE_RATE, cohorts, lambda i: row_examples(i, width))


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# 5 is shorter than the table, so that rows are looked up; 8 takes the whole table.
@pytest.mark.parametrize(
    ("cohorts", "width", "per_row"),
    [(FULL, 5, True), (PART, 5, False), (PART, 8, True)],
)
def test_the_algorithm_of_the_paper_on_the_touched_rows(cohorts, width, per_row):
    q, w = np.ones((ITEMS, D)), np.zeros(D)
    c, cw = np.zeros((ITEMS, D)), np.zeros(D)
    own, own_w = np.zeros((3, ITEMS, D)), np.zeros((3, D))
    states = play_rows(cohorts, width, per_row)
    for present, (shared, personal) in zip(cohorts, states, strict=True):
        moves, touched = np.zeros((ITEMS, D)), np.zeros(ITEMS)
        moves_w, changes, changes_w = np.zeros(D), np.zeros((ITEMS, D)), np.zeros(D)
        for i in present:
            y, yw, count = q.copy(), w.copy(), 0
            client_rows = sorted(set(ITEM[i]))
            for _ in range(ROW_EPOCHS):
                for first in range(0, len(ITEM[i]), BATCH):
                    batch = range(first, min(first + BATCH, len(ITEM[i])))
                    g, gw = np.zeros((ITEMS, D)), np.zeros(D)
                    for e in batch:
                        off = (y[ITEM[i][e]] + yw - TARGET[i][e]) / len(batch)
                        g[ITEM[i][e]] += off
                        gw += off
                    # Every step corrects all rows of the round, in the batch or not.
                    y[client_rows] -= ROW_RATE * (g - own[i] + c)[client_rows]
                    yw -= DENSE_RATE * (gw - own_w[i] + cw)
                    count += 1
            new = own[i].copy()
            new[client_rows] = (own[i] - c + (q - y) / (count * ROW_RATE))[client_rows]
            new_w = own_w[i] - cw + (w - yw) / (count * DENSE_RATE)
            moves += y - q
            moves_w += yw - w
            touched[client_rows] += 1
            changes += new - own[i]
            changes_w += new_w - own_w[i]
            own[i], own_w[i] = new, new_w
        over = np.maximum(touched, 1)[:, None] if per_row else len(present)
        q, w = q + moves / over, w + moves_w / len(present)
        c, cw = c + changes / 3, cw + changes_w / 3
        close(shared["item"].values, q)
        close(shared["w"], w)
        close(shared[CONTROL]["item"].values, c)
        close(shared[CONTROL]["w"], cw)
        for i in range(3):
            close(personal[i][OWN]["item"].values, own[i])
        np.testing.assert_allclose(own.mean(0), c, atol=1e-12)
    assert np.abs(own).max() > 0.1
    assert (own[:, 5] == 0).all()


def test_rows_settle_where_their_own_clients_balance():
    """There the clients' variates cancel, and further steps change no row."""
    *_, (shared, personal), (after, _) = play_rows([[0, 1, 2]] * 151, 5, True)
    total = sum(np.asarray(own[OWN]["item"].values) for own in personal)
    np.testing.assert_allclose(total, 0, atol=1e-3)
    moved = np.abs(np.asarray(after["item"].values - shared["item"].values)).max()
    assert moved < 1e-3


def test_fixed_groups_and_tables_unless_asked_for_have_no_variate():
    def init(key):
        del key
        shared = {
            "item": rows.Table(values=jnp.zeros((4, 2))),
            "head": jnp.zeros(3),
            "body": jnp.ones(2),
        }
        return Params(shared=shared, personal={})

    model = dense_model()._replace(init=init, fixed=("head",))
    for tables, names in ((False, {"body"}), (True, {"body", "item"})):
        params = with_control(model, tables=tables).init(jax.random.key(0))
        assert set(params.shared[CONTROL]) == set(params.personal[OWN]) == names
    only = model._replace(
        init=lambda key: Params(shared={"item": init(key).shared["item"]}, personal={})
    )
    with pytest.raises(ValueError, match="there is none among item"):
        with_control(only, tables=False).init(jax.random.key(0))


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (
            FedAvg(
                model=NeuralCF(users="table"),
            ),
            "clients that are one user each",
        ),
        (
            FedAvg(model=NeuralCF(), client_optimizer=Adam()),
            "corrects several steps of",
        ),
        (FedAvg(model=NeuralCF(), proximal=0.1), "corrects several steps of plain SGD"),
    ],
)
def test_systems_that_scaffold_cannot_correct_are_refused(algorithm, message):
    recipe = algorithm.build(context_of(None))
    with pytest.raises(ValueError, match=message):
        Scaffold().build(context_of(recipe))


def test_the_servers_variate_is_the_mean_over_clients_with_data():
    recipe = recipe_of(row_model(), 1, means.weighted_mean(), row_rate=lambda h: 0.1)
    context = dataclasses.replace(context_of(recipe), examples=np.array([2, 0, 3]))
    rule = Scaffold().build(context).aggregator
    shared = {CONTROL: {"w": jnp.zeros(2)}, "w": jnp.zeros(2)}
    slots = jnp.arange(2)
    senders = Senders(slots=slots, ids=2 * slots, loss=jnp.zeros(2))
    sent = jnp.asarray([[1.0, 2.0], [3.0, 6.0]])
    deltas = {CONTROL: {"w": sent}, "w": sent}
    acc = rule.update(rule.init(shared, 2), deltas, jnp.asarray([2.0, 3.0]), senders)
    delta, _, _ = rule.finish(acc, rule.start(shared), shared)
    np.testing.assert_allclose(delta[CONTROL]["w"], [2.0, 4.0])


def test_corrected_rows_need_plain_sgd():
    recipe = recipe_of(row_model(), 1, means.weighted_mean())
    recipe = Scaffold().build(context_of(recipe))
    start = recipe.model.init(jax.random.key(0))
    hparams = {"rate": jnp.float32(0.1)}
    with pytest.raises(ValueError, match="of the tables item needs plain SGD on their"):
        recipe.client_update(start, (), row_examples(0, 5), hparams, jax.random.key(0))


SMALL = Experiment(
    name="control",
    data=SyntheticData(num_users=20, num_items=30, num_interactions=200),
    algorithm=FedAvg(
        model=MatrixFactorization(dim=4),
        negatives=1,
        local_epochs=2,
        client_optimizer=SGD(lr=0.5),
        batch_size=16,
    ),
    wrapper=Scaffold(),
    cohort=Uniform(size=10),
    execution=Execution(max_buckets=1),
    rounds=3,
    eval_every=3,
)


def test_a_run_keeps_the_servers_variate_the_mean_of_the_clients():
    simulation = build(SMALL)
    simulation.advance(3)
    c = np.asarray(simulation.state.shared[CONTROL]["item"].values)
    own = np.asarray(simulation.personal[OWN]["item"].values)
    assert own.shape == (20, 30, 4)
    assert np.abs(c).max() > 1e-4
    np.testing.assert_allclose(c, own.mean(0), atol=1e-6)


def test_variates_double_the_messages_and_go_through_a_codec():
    def sent(**fields):
        simulation = build(dataclasses.replace(SMALL, **fields))
        return np.asarray(simulation.sampler.tables[1].up)

    with_variates = sent()
    np.testing.assert_allclose(with_variates, 2 * sent(wrapper=None))
    assert (sent(codec=BlockInt(bits=8)) < 0.6 * with_variates).all()
