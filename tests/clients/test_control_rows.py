"""SCAFFOLD of row tables against its algorithm in NumPy, row by row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fedjax_rec.aggregators.scaffold import scaffold
from fedjax_rec.clients.control import (
    CONTROL,
    OWN,
    controlled_update,
    with_control,
)

from fedjax_rec import CodecConfig, CohortConfig, Experiment, FedAvg, build
from fedjax_rec.aggregators import means
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model, Params, Senders
from fedjax_rec.data.settings import SyntheticData

ITEMS, D, BATCH, EPOCHS = 6, 2, 2, 2
RATE, ROW_RATE = 0.05, 0.2
# What each client pulls which rows to, in its order; row 5 is nobody's, 0 comes twice.
ITEM = [[0, 3, 0, 1], [1, 0], [4, 3, 1]]
TARGET = [np.random.default_rng(c).normal(size=(len(i), D)) for c, i in enumerate(ITEM)]
FULL = [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
PART = [[0, 2], [1], [0, 1], [2, 0]]


def model():
    """`1/2 |q_item + w - target|^2`: rows and a dense leaf move together."""

    def init(key):
        del key
        shared = {"item": rows.Table(values=jnp.ones((ITEMS, D))), "w": jnp.zeros(D)}
        return Params(shared=shared, personal={})

    def loss(params, frozen, batch, key):
        del frozen, key
        mask = batch["mask"]
        at = rows.lookup(params.shared["item"], batch["item"])
        off = at + params.shared["w"] - batch["target"]
        each = 0.5 * jnp.sum(off**2, -1)
        return jnp.sum(jnp.where(mask, each, 0)) / jnp.maximum(mask.sum(), 1), {}

    return Model(init, loss, lambda params, frozen, query, candidates: jnp.zeros(1))


def examples(client, width):
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


def play(rounds, width, per_row):
    plain = model()

    def make(model):
        phase = Phase(lambda h: optax.sgd(RATE), row_rate=lambda h: ROW_RATE)
        return local_update(
            model,
            lambda examples, key: dict(examples),
            (phase,),
            batch_size=BATCH,
            epochs=EPOCHS,
            shuffle=False,
        )

    update = controlled_update(
        make,
        plain,
        steps=local_steps(BATCH, EPOCHS),
        rate=lambda h: jnp.float32(RATE),
        row_rate=lambda h: jnp.float32(ROW_RATE),
    )
    start = with_control(plain, tables=True).init(jax.random.key(0))
    shared, personal = start.shared, [start.personal] * 3
    train = jax.jit(lambda p, e: update(p, (), e, {}, jax.random.key(1)))
    inner = means.per_row_mean if per_row else means.weighted_mean
    rule = scaffold(inner(uniform=True), 3)

    @jax.jit
    def fold(acc, result):
        one = jax.tree.map(lambda x: x[None], result.delta)
        at = jnp.zeros(1, jnp.int32)
        senders = Senders(slots=at, ids=at, loss=jnp.zeros(1))
        return rule.update(acc, one, result.weight[None], senders)

    for present in rounds:
        acc = rule.init(shared, 3)
        for client in present:
            mine = Params(shared=shared, personal=personal[client])
            result = train(mine, examples(client, width))
            acc = fold(acc, result)
            personal[client] = result.personal
        delta, _, _ = rule.finish(acc, rule.start(shared), shared)
        shared = jax.tree.map(jnp.add, shared, delta)
        yield shared, personal


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# 5 is shorter than the table, so that rows are looked up; 8 takes the table whole.
@pytest.mark.parametrize(
    ("rounds", "width", "per_row"), [(FULL, 5, True), (PART, 5, False), (PART, 8, True)]
)
def test_the_algorithm_of_the_paper_on_the_rows_that_are_touched(
    rounds, width, per_row
):
    q, w = np.ones((ITEMS, D)), np.zeros(D)
    c, cw = np.zeros((ITEMS, D)), np.zeros(D)
    own, own_w = np.zeros((3, ITEMS, D)), np.zeros((3, D))
    told = play(rounds, width, per_row)
    for present, (shared, personal) in zip(rounds, told, strict=True):
        moves, touched = np.zeros((ITEMS, D)), np.zeros(ITEMS)
        moves_w, changes, changes_w = np.zeros(D), np.zeros((ITEMS, D)), np.zeros(D)
        for i in present:
            y, yw, count = q.copy(), w.copy(), 0
            mine = sorted(set(ITEM[i]))
            for _ in range(EPOCHS):
                for first in range(0, len(ITEM[i]), BATCH):
                    some = range(first, min(first + BATCH, len(ITEM[i])))
                    g, gw = np.zeros((ITEMS, D)), np.zeros(D)
                    for e in some:
                        off = (y[ITEM[i][e]] + yw - TARGET[i][e]) / len(some)
                        g[ITEM[i][e]] += off
                        gw += off
                    # Every step corrects all rows of the round, in the batch or not.
                    y[mine] -= ROW_RATE * (g - own[i] + c)[mine]
                    yw -= RATE * (gw - own_w[i] + cw)
                    count += 1
            new = own[i].copy()
            new[mine] = (own[i] - c + (q - y) / (count * ROW_RATE))[mine]
            new_w = own_w[i] - cw + (w - yw) / (count * RATE)
            moves += y - q
            moves_w += yw - w
            touched[mine] += 1
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
    """There its clients' variates cancel, and however many steps they take it stays."""
    *_, (shared, personal) = play([[0, 1, 2]] * 150, 5, True)
    total = sum(np.asarray(p[OWN]["item"].values) for p in personal)
    np.testing.assert_allclose(total, 0, atol=1e-3)
    *_, (after, _) = play([[0, 1, 2]] * 151, 5, True)
    still = np.abs(np.asarray(after["item"].values - shared["item"].values)).max()
    assert still < 1e-3


SMALL = Experiment(
    name="control",
    data=SyntheticData(num_users=20, num_items=30, num_interactions=200),
    algorithm=FedAvg(dim=4, negatives=1, control="scaffold", local_epochs=2),
    cohort=CohortConfig(sampling="uniform", size=10),
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


def test_its_messages_go_through_a_codec():
    simulation = build(dataclasses.replace(SMALL, codec=CodecConfig(name="int8")))
    plain = build(SMALL)
    up = np.asarray(simulation.sampler.tables[1].up)
    whole = np.asarray(plain.sampler.tables[1].up)
    assert (up < 0.6 * whole).all()
    single = dataclasses.replace(
        SMALL, algorithm=dataclasses.replace(SMALL.algorithm, control="none")
    )
    np.testing.assert_allclose(
        whole, 2 * np.asarray(build(single).sampler.tables[1].up)
    )


def test_rows_under_another_optimizer_are_refused():
    phase = Phase(lambda h: optax.adam(0.1))

    def make(model):
        return local_update(
            model, lambda examples, key: dict(examples), (phase,), batch_size=2
        )

    update = controlled_update(
        make, model(), steps=local_steps(2), rate=lambda h: jnp.float32(0.1)
    )
    start = with_control(model(), tables=True).init(jax.random.key(0))
    with pytest.raises(ValueError, match="of item needs plain SGD on the rows"):
        update(start, (), examples(0, 5), {}, jax.random.key(0))
