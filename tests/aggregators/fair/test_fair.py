"""Fair and dynamic weights by hand, against NumPy, and against FedAvg at no tilt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators import attention, fair, fednova, means
from fedjax_rec.aggregators.fair.agnostic import project
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders

C = 5
N = np.array([1.0, 3, 0, 2, 4], np.float32)
LOSS = np.array([0.5, 2, 9, 1, 0.1], np.float32)
LENGTH = 6
SHARED = {"item": rows.Table(values=jnp.zeros((LENGTH, 2))), "w": jnp.zeros(3)}


def sent(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "item": rows.Rows(
            # Ids repeat, and padding (6) holds numbers that nobody may read.
            ids=jnp.asarray(rng.integers(0, LENGTH + 1, (C, 5))),
            values=jnp.asarray(rng.normal(size=(C, 5, 2)), jnp.float32),
        ),
        "w": jnp.asarray(rng.normal(size=(C, 3)), jnp.float32),
    }


def dense(deltas):
    """Each client's whole delta in NumPy: `{"item": [C, I, 2], "w": [C, 3]}`."""
    item = np.zeros((C, LENGTH + 1, 2))
    for client in range(C):
        np.add.at(
            item[client], deltas["item"].ids[client], deltas["item"].values[client]
        )
    return {"item": item[:, :LENGTH], "w": np.asarray(deltas["w"], np.float64)}


def run(rule, deltas=None, weights=N, loss=LOSS, ids=None, state=None, chunk=2):
    deltas = sent() if deltas is None else deltas
    state = rule.start(SHARED) if state is None else state
    acc = rule.begin(rule.init(SHARED, C), state)
    ids = np.arange(C) if ids is None else ids
    for first in range(0, C, chunk):
        at = slice(first, first + chunk)
        senders = Senders(
            slots=jnp.arange(C)[at],
            ids=jnp.asarray(ids)[at],
            loss=jnp.asarray(loss)[at],
        )
        some = jax.tree.map(lambda x, at=at: x[at], deltas)
        acc = rule.update(acc, some, jnp.asarray(weights)[at], senders)
    delta, state, info = rule.finish(acc, state, SHARED)
    return {"item": delta["item"].values, "w": delta["w"]}, state, info


def mean(part, deltas=None):
    """`sum_i part_i delta_i`."""
    whole = dense(sent() if deltas is None else deltas)
    return jax.tree.map(lambda x: np.tensordot(part, x, 1), whole)


def close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


UNIFORM = (N > 0) / (N > 0).sum()
FEDAVG = N / N.sum()


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        (fair.q_fedavg(0.0, 7.0), FEDAVG),
        (fair.q_fedavg(0.0, uniform=True), UNIFORM),
        (fair.tilted(0.0), FEDAVG),
        (fair.by_size(1.0), FEDAVG),
        (fair.by_size(0.0), UNIFORM),
        (fair.by_effective_number(0.0), UNIFORM),
        (fair.by_effective_number(0.9999), FEDAVG),
        (fair.by_magnitude(0.0), FEDAVG),
        (fair.agnostic(lambda ids: 0 * ids, 1), FEDAVG),
        (fair.by_trend(C, np.inf), FEDAVG),
        (fair.by_trend(C), FEDAVG),  # the first round knows no trend
        (fednova.fednova(lambda n: 0 * n + 3), FEDAVG),
        (fednova.fednova(lambda n: 0 * n + 3, momentum=0.9), FEDAVG),
        (attention.attentive(temperature=np.inf), UNIFORM),
    ],
)
def test_without_its_idea_a_rule_is_fedavg_or_the_uniform_mean(rule, part):
    atol = 1e-3 if part is FEDAVG else 1e-5
    close(run(rule)[0], mean(part), atol=atol)


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("uniform", [False, True])
def test_q_fedavg(q, uniform):
    """Algorithm 2 of the paper, in its own symbols."""
    lipschitz, n = 4.0, (N > 0).astype(float) if uniform else N
    whole = dense(sent())
    squares = (whole["item"] ** 2).sum((1, 2)) + (whole["w"] ** 2).sum(1)
    h = q * LOSS ** (q - 1) * lipschitz**2 * squares + lipschitz * LOSS**q
    part = n * LOSS**q * lipschitz / (n * h).sum()
    close(run(fair.q_fedavg(q, lipschitz, uniform=uniform))[0], mean(part))


@pytest.mark.parametrize("t", [-2.0, 1.0, 3.0])
def test_tilted_is_the_softmax_of_losses_by_examples(t):
    part = N * np.exp(t * LOSS)
    close(run(fair.tilted(t))[0], mean(part / part.sum()))


def test_tilted_is_the_gradient_of_the_tilted_loss():
    def tilted_loss(move):
        each = jnp.asarray(LOSS) + jnp.asarray(dense(sent())["w"]) @ move
        return jnp.log(jnp.sum(FEDAVG * jnp.exp(1.5 * each))) / 1.5

    gradient = jax.grad(tilted_loss)(jnp.zeros(3))
    np.testing.assert_allclose(run(fair.tilted(1.5))[0]["w"], gradient, atol=1e-5)


def test_a_huge_loss_stays_finite():
    loss = np.array([1e4, 1e4, 9, 1e4, 1e4], np.float32)
    close(run(fair.tilted(50.0), loss=loss)[0], mean(FEDAVG))
    found, _, _ = run(fair.q_fedavg(3.0), loss=np.zeros(C, np.float32))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))


def test_few_examples_count_for_more():
    for rule, size in (
        (fair.by_size(0.5), N**0.5),
        (fair.by_size(-1.0), np.where(N > 0, 1 / np.maximum(N, 1), 0)),
        (fair.by_effective_number(0.5), np.array([1, 1.75, 0, 1.5, 1.875])),
    ):
        close(run(rule)[0], mean(size / size.sum()))


def test_by_magnitude_takes_a_mean_of_directions():
    whole = dense(sent())
    norms = np.sqrt((whole["item"] ** 2).sum((1, 2)) + (whole["w"] ** 2).sum(1))
    for power in (-1.0, 1.0):
        part = N * norms**power
        close(run(fair.by_magnitude(power))[0], mean(part / part.sum()))
    found, _, _ = run(fair.by_magnitude(-1.0))
    size = np.sqrt(sum((np.asarray(x) ** 2).sum() for x in found.values()))
    assert size <= N.sum() / (N / norms)[N > 0].sum() * (1 + 1e-6)


def test_agnostic_climbs_the_losses_of_the_groups():
    rule = fair.agnostic(lambda ids: ids % 2, 3, rate=0.1)
    first, state, info = run(rule)
    # Group 0 holds clients 0 and 4 (client 2 is absent), 1 holds 1 and 3, 2 is empty.
    means_ = np.stack([N * [1, 0, 1, 0, 1], N * [0, 1, 0, 1, 0]])
    means_ /= means_.sum(1, keepdims=True)
    close(first, mean([0.5, 0.5] @ means_))
    losses = np.array([(0.5 + 4 * 0.1) / 5, (3 * 2 + 2 * 1) / 5, 0])
    expected = np.full(3, 1 / 3) + 0.1 * losses
    expected -= (expected.sum() - 1) / 3  # no coordinate is cut to zero
    np.testing.assert_allclose(state, expected, atol=1e-6)
    assert float(info["agnostic_most"]) == pytest.approx(expected.max(), rel=1e-6)
    second, _, _ = run(rule, sent(1), state=state)
    part = expected[:2] / expected[:2].sum()
    close(second, mean(part @ means_, sent(1)))
    same = run(rule, weights=np.zeros(C, np.float32), state=state)
    np.testing.assert_array_equal(same[1], state)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(0)
    for _ in range(5):
        v = rng.normal(size=4)
        got = np.asarray(project(jnp.asarray(v, jnp.float32)))
        assert got.min() >= 0
        assert got.sum() == pytest.approx(1, abs=1e-6)
        others = rng.dirichlet(np.ones(4), 2000)
        assert (
            np.linalg.norm(v - got) <= np.linalg.norm(v - others, axis=1).min() + 1e-6
        )


def test_fednova_in_the_symbols_of_the_paper():
    steps = local_steps(4, epochs=2, pairs=3, group=3)
    tau = np.array([2.0, 6, 0, 4, 8])  # a batch of one positive with its negatives
    np.testing.assert_array_equal(steps(jnp.asarray(N)), tau)
    for momentum in (0.0, 0.5):
        # a_i by unrolling tau_i momentum steps of a unit gradient.
        length = []
        for count in tau:
            x = v = 0.0
            for _ in range(int(count)):
                v = momentum * v + 1
                x += v
            length.append(x)
        effective = (FEDAVG * length).sum()
        part = effective * FEDAVG / np.where(N > 0, length, 1)
        found, _, info = run(fednova.fednova(steps, momentum))
        close(found, mean(part))
        assert float(info["effective_steps"]) == pytest.approx(effective, rel=1e-5)


def test_fednova_is_consistent_where_fedavg_is_not():
    """On quadratics it moves along the sum of the clients' gradients."""
    minima, tau, rate = np.array([[-1.0], [3.0]]), np.array([1, 9]), 1e-4
    moved = np.array(
        [m * (1 - (1 - rate) ** t) for m, t in zip(minima, tau, strict=True)]
    )
    shared, n = {"w": jnp.zeros(1)}, jnp.asarray([1.0, 1.0])
    senders = Senders(slots=jnp.arange(2), ids=jnp.arange(2), loss=jnp.zeros(2))
    found = []
    for rule in (fednova.fednova(lambda _: jnp.asarray(tau)), means.weighted_mean()):
        acc = rule.update(rule.init(shared, 2), {"w": jnp.asarray(moved)}, n, senders)
        found.append(float(rule.finish(acc, (), shared)[0]["w"][0]))
    assert found[0] == pytest.approx(5 * rate * minima.mean(), rel=1e-3)
    assert found[1] == pytest.approx(rate * (-1 + 27) / 2, rel=1e-3)


def test_those_who_come_rarely_count_for_more():
    population = 4
    rule = fair.by_participation(population, longest=5)
    present = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 0, 1]])
    omega, count, since, state = np.ones(4), np.zeros(4), np.zeros(4), None
    for t, row in enumerate(present):
        weights = np.zeros(C, np.float32)
        weights[[0, 1, 3]] = 2 * row  # clients 0, 1 and 3; 2 never comes
        found, state, _ = run(
            rule, sent(t), weights=weights, ids=[0, 1, -1, 3, -1], state=state
        )
        here = np.array([row[0], row[1], 0, row[2]], bool)
        part = np.zeros(C)
        part[[0, 1, 3]] = (omega * here)[[0, 1, 3]] / population
        close(found, mean(part, sent(t)))
        since += 1  # algorithm 2 of the paper
        for client in range(4):
            if here[client] or since[client] == 5:
                total = count[client] * omega[client] + since[client]
                omega[client] = total / (count[client] + 1)
                count[client] += 1
                since[client] = 0
    assert state is not None
    np.testing.assert_allclose(state.weight, omega, rtol=1e-6)
    assert omega.tolist() == [1, 1.5, 5, 5]


def test_full_participation_is_the_uniform_mean():
    ones = np.ones(C, np.float32)
    rule, state = fair.by_participation(C), None
    for t in range(3):
        found, state, _ = run(rule, sent(t), weights=ones, state=state)
        close(found, mean(ones / C, sent(t)))


def test_a_loss_that_falls_slowly_weighs_more():
    rule = fair.by_trend(7, temperature=0.5)
    ids = [6, 1, 2, 3, 0]
    _, state, _ = run(rule, ids=ids)
    assert np.asarray(state).tolist() == pytest.approx([0.1, 2, 0, 1, 0, 0, 0.5])
    loss = LOSS * np.array([0.5, 0.9, 1, 1.2, 0.1], np.float32)
    # Client 5 comes first in place of client 0: no trend is known of it.
    found, new, _ = run(rule, sent(1), loss=loss, ids=[6, 1, 2, 3, 5], state=state)
    ratio = np.array([0.5, 0.9, 1, 1.2, 1])
    part = N * np.exp(ratio / 0.5)
    close(found, mean(part / part.sum(), sent(1)))
    kept = [0.1, 1.8, 0, 1.2, 0, 0.01, 0.25]
    assert np.asarray(new).tolist() == pytest.approx(kept, rel=1e-5)


def test_fedatt_attends_to_distance_layer_by_layer():
    found, _, _ = run(attention.attentive(step=0.7, temperature=2.0))
    whole = dense(sent())
    for name, x in whole.items():
        distance = np.sqrt((x**2).reshape(C, -1).sum(1))
        part = np.exp(distance / 2) * (N > 0)
        expected = 0.7 * np.tensordot(part / part.sum(), x, 1)
        np.testing.assert_allclose(found[name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: fair.q_fedavg(-1.0), "q of at least 0"),
        (lambda: fair.q_fedavg(1.0, 0.0), "1 / client_lr"),
        (lambda: fair.by_effective_number(1.0), r"\[0, 1\)"),
        (lambda: fair.agnostic(lambda i: i, 0), "at least one group"),
        (lambda: fair.by_participation(0), "at least 1"),
        (lambda: fair.by_trend(3, 0.0), "positive temperature"),
        (lambda: fednova.fednova(lambda n: n, 1.0), r"\[0, 1\)"),
        (lambda: attention.attentive(temperature=0.0), "positive"),
    ],
)
def test_what_no_rule_could_use_is_refused(factory, message):
    with pytest.raises(ValueError, match=message):
        factory()
