"""Weights by examples, steps and distance, against NumPy and the papers' formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.means import Mean
from fedjax_rec.aggregators.weights import (
    Attentive,
    ByEffectiveNumber,
    ByMagnitude,
    BySize,
    FedNova,
)
from fedjax_rec.clients.local import local_steps
from fedjax_rec.core.contracts import Local, Senders
from tests.aggregators.cohorts import (
    FEDAVG,
    UNIFORM,
    C,
    N,
    close,
    context,
    dense,
    mean,
    run,
    sent,
)


def fednova(steps, momentum=0.0):
    return FedNova().build(context(local=Local(steps=steps, momentum=momentum)))


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        (BySize(power=1.0), FEDAVG),
        (BySize(power=0.0), UNIFORM),
        (ByEffectiveNumber(beta=0.0), UNIFORM),
        (ByEffectiveNumber(beta=0.9999), FEDAVG),
        (ByMagnitude(power=0.0), FEDAVG),
        (fednova(lambda n: 0 * n + 3), FEDAVG),
        (fednova(lambda n: 0 * n + 3, momentum=0.9), FEDAVG),
        (Attentive(temperature=1e9), UNIFORM),
    ],
)
def test_a_rule_without_its_effect_is_a_mean(rule, part):
    atol = 1e-3 if part is FEDAVG else 1e-5
    close(run(rule)[0], mean(part), atol=atol)


@pytest.mark.parametrize(
    ("rule", "size"),
    [
        (BySize(), N**0.5),
        (BySize(power=-1.0), np.where(N > 0, 1 / np.maximum(N, 1), 0)),
        (ByEffectiveNumber(beta=0.5), np.array([1, 1.75, 0, 1.5, 1.875])),
    ],
)
def test_small_clients_count_for_more(rule, size):
    close(run(rule)[0], mean(size / size.sum()))


def test_by_magnitude_is_a_mean_of_directions():
    each = dense(sent())
    norms = np.sqrt((each["item"] ** 2).sum((1, 2)) + (each["w"] ** 2).sum(1))
    for power in (-1.0, 1.0):
        part = N * norms**power
        close(run(ByMagnitude(power=power))[0], mean(part / part.sum()))
    delta, _, _ = run(ByMagnitude())
    size = np.sqrt(sum((np.asarray(x) ** 2).sum() for x in delta.values()))
    assert size <= N.sum() / (N / norms)[N > 0].sum() * (1 + 1e-6)


def test_one_row_weights_are_those_of_all_rows_where_all_clients_touch_it():
    delta = sent()
    delta["item"] = delta["item"].__class__(
        ids=jnp.zeros((C, 5), jnp.int32), values=delta["item"].values
    )
    for make in (BySize, ByEffectiveNumber, ByMagnitude):
        close(run(make(per_row=True), delta)[0], run(make(), delta)[0], atol=1e-6)


def test_fednova_in_the_symbols_of_the_paper():
    steps = local_steps(4, epochs=2, pairs=3, group=3)
    tau = np.array([2.0, 6, 0, 4, 8])  # a batch of one positive with its negatives
    np.testing.assert_array_equal(steps(jnp.asarray(N)), tau)
    for momentum in (0.0, 0.5):
        # a_i by unrolling tau_i momentum steps of a unit gradient.
        length = []
        for t in tau:
            v = x = 0.0
            for _ in range(int(t)):
                v = momentum * v + 1
                x += v
            length.append(x)
        effective = (FEDAVG * length).sum()
        part = effective * FEDAVG / np.where(N > 0, length, 1)
        delta, _, info = run(fednova(steps, momentum))
        close(delta, mean(part))
        assert float(info["effective_steps"]) == pytest.approx(effective, rel=1e-5)


def test_fednova_is_consistent_and_fedavg_is_not():
    """On quadratics it moves along the sum of the clients' gradients."""
    minima, tau, rate = np.array([[-1.0], [3.0]]), np.array([1, 9]), 1e-4
    moved = np.array(
        [m * (1 - (1 - rate) ** t) for m, t in zip(minima, tau, strict=True)]
    )
    shared, n = {"w": jnp.zeros(1)}, jnp.asarray([1.0, 1.0])
    senders = Senders(slots=jnp.arange(2), ids=jnp.arange(2), loss=jnp.zeros(2))
    deltas = []
    for rule in (fednova(lambda _: jnp.asarray(tau)), Mean().build(context())):
        acc = rule.update(rule.init(shared, 2), {"w": jnp.asarray(moved)}, n, senders)
        deltas.append(float(rule.finish(acc, (), shared)[0]["w"][0]))
    assert deltas[0] == pytest.approx(5 * rate * minima.mean(), rel=1e-3)
    assert deltas[1] == pytest.approx(rate * (-1 + 27) / 2, rel=1e-3)


def test_fedatt_attends_to_distance_layer_by_layer():
    delta, _, _ = run(Attentive(step=0.7, temperature=2.0))
    for name, x in dense(sent()).items():
        distance = np.sqrt((x**2).reshape(C, -1).sum(1))
        part = np.exp(distance / 2) * (N > 0)
        expected = 0.7 * np.tensordot(part / part.sum(), x, 1)
        np.testing.assert_allclose(delta[name], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BySize(power=np.inf), "power=inf"),
        (lambda: ByEffectiveNumber(beta=1.0), r"beta=1\.0, expected .* \[0, 1\)"),
        (lambda: ByMagnitude(power=np.nan), "power=nan"),
        (lambda: Attentive(temperature=0.0), r"temperature=0\.0, expected .* \(0, inf"),
        (lambda: fednova(None), "counts local steps of SGD"),
        (lambda: fednova(lambda n: n, 1.0), r"momentum in \[0, 1\)"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
