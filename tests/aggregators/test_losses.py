"""Weights by loss, against NumPy and the papers' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.losses import Agnostic, QFedAvg, Tilted, project
from fedjax_rec.aggregators.means import Mean
from fedjax_rec.core.contracts import Local
from tests.aggregators.cohorts import (
    FEDAVG,
    LOCAL,
    LOSS,
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


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        (QFedAvg(q=0.0, lipschitz=7.0), FEDAVG),
        (QFedAvg(q=0.0, weights="uniform"), UNIFORM),
        (Tilted(tilt=0.0), FEDAVG),
        (Agnostic(groups=1), FEDAVG),
    ],
    ids=["q-fedavg", "q-fedavg uniform", "tilted", "agnostic"],
)
def test_a_rule_without_its_effect_is_a_mean(rule, part):
    close(run(rule)[0], mean(part))


@pytest.mark.parametrize("q", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("weights", ["examples", "uniform"])
def test_q_fedavg(q, weights):
    """Algorithm 2 of the paper, in its own symbols."""
    lipschitz, n = 4.0, N if weights == "examples" else (N > 0).astype(float)
    each = dense(sent())
    squares = (each["item"] ** 2).sum((1, 2)) + (each["w"] ** 2).sum(1)
    h = q * LOSS ** (q - 1) * lipschitz**2 * squares + lipschitz * LOSS**q
    part = n * LOSS**q * lipschitz / (n * h).sum()
    close(run(QFedAvg(q=q, lipschitz=lipschitz, weights=weights))[0], mean(part))


def test_q_fedavg_takes_lipschitz_from_the_local_rate():
    delta, _, _ = run(QFedAvg().build(context(client_lr=0.25)))
    close(delta, run(QFedAvg(lipschitz=4.0))[0], atol=0)
    # Rows at 100 times the rate are as dense parameters that are 10 times larger.
    fast = LOCAL._replace(row_rate=lambda hparams: 100 * hparams["client_lr"])
    delta, _, _ = run(QFedAvg().build(context(local=fast, client_lr=0.25)))
    each = dense(sent())
    squares = (each["item"] ** 2).sum((1, 2)) / 25 + (each["w"] ** 2).sum(1) / 0.25
    close(delta, mean(N * LOSS / (N * (LOSS + squares)).sum()))
    for local, lr in ((Local(), 0.25), (LOCAL, 0.0)):
        with pytest.raises(ValueError, match="set lipschitz"):
            QFedAvg().build(context(local=local, client_lr=lr))


@pytest.mark.parametrize("tilt", [-2.0, 1.0, 3.0])
def test_tilted_is_the_softmax_of_losses_by_examples(tilt):
    part = N * np.exp(tilt * LOSS)
    close(run(Tilted(tilt=tilt))[0], mean(part / part.sum()))


def test_tilted_is_the_gradient_of_the_tilted_loss():
    def tilted_loss(move):
        each = jnp.asarray(LOSS) + jnp.asarray(dense(sent())["w"]) @ move
        return jnp.log(jnp.sum(FEDAVG * jnp.exp(1.5 * each))) / 1.5

    gradient = jax.grad(tilted_loss)(jnp.zeros(3))
    np.testing.assert_allclose(run(Tilted(tilt=1.5))[0]["w"], gradient, atol=1e-5)


def test_tilted_by_row_weighs_the_clients_that_touched_a_row():
    part, touched = N * np.exp(LOSS), np.asarray(sent()["item"].ids)
    touched = (touched[:, :, None] == np.arange(6)).any(1)
    item = np.tensordot(part, dense(sent())["item"], 1)
    item /= np.maximum(part @ touched, 1e-9)[:, None]
    delta, _, _ = run(Tilted(per_row=True))
    np.testing.assert_allclose(delta["item"], item, atol=1e-5)
    np.testing.assert_allclose(delta["w"], run(Tilted())[0]["w"], atol=1e-6)


def test_a_huge_loss_stays_finite():
    loss = np.array([1e4, 1e4, 9, 1e4, 1e4], np.float32)
    close(run(Tilted(tilt=50.0), loss=loss)[0], mean(FEDAVG))
    delta, _, _ = run(QFedAvg(q=3.0), loss=np.zeros(C, np.float32))
    # In the limit of no loss, clients have no weight.
    for x in jax.tree.leaves(delta):
        np.testing.assert_allclose(x, 0, atol=1e-6)


def test_agnostic_climbs_the_losses_of_the_groups():
    # Terciles of 1, 9, 1, 9, 1: group 0 holds clients 0 and 4 (client 2 is absent),
    # group 2 holds 1 and 3, group 1 is empty.
    rule = Agnostic(groups=3).build(context(examples=np.array([1, 9, 1, 9, 1])))
    first, state, info = run(rule)
    means = np.stack([N * [1, 0, 1, 0, 1], N * [0, 1, 0, 1, 0]])
    means /= means.sum(1, keepdims=True)
    close(first, mean([0.5, 0.5] @ means))
    losses = np.array([(0.5 + 4 * 0.1) / 5, 0, (3 * 2 + 2 * 1) / 5])
    expected = np.full(3, 1 / 3) + 0.1 * losses
    expected -= (expected.sum() - 1) / 3  # no coordinate is cut to zero
    np.testing.assert_allclose(state, expected, atol=1e-6)
    assert float(info["agnostic_most"]) == pytest.approx(expected.max(), rel=1e-6)
    second, _, _ = run(rule, sent(1), state=state)
    part = expected[[0, 2]] / expected[[0, 2]].sum()
    close(second, mean(part @ means, sent(1)))
    absent = run(rule, weights=np.zeros(C, np.float32), state=state)
    np.testing.assert_array_equal(absent[1], state)


def test_agnostic_without_a_rate_is_a_mean_of_the_groups_means():
    rule = Agnostic(groups=2, rate=0.0).build(context(examples=np.arange(C)))
    _, state, _ = run(rule)
    np.testing.assert_allclose(state, [0.5, 0.5], rtol=1e-6)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(0)
    for _ in range(5):
        v = rng.normal(size=4)
        got = np.asarray(project(jnp.asarray(v, jnp.float32)))
        assert got.min() >= 0
        assert got.sum() == pytest.approx(1, abs=1e-6)
        others = rng.dirichlet(np.ones(4), 2000)
        nearest = np.linalg.norm(v - others, axis=1).min()
        assert np.linalg.norm(v - got) <= nearest + 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: QFedAvg(q=-1.0), r"q=-1\.0, expected a number in \[0, inf\)"),
        (lambda: QFedAvg(q=np.inf), "q=inf"),
        (lambda: QFedAvg(lipschitz=0.0), r"lipschitz=0\.0"),
        (lambda: QFedAvg(weights="some"), "weights='some'"),  # pyright: ignore
        (lambda: Tilted(tilt=np.nan), "tilt=nan"),
        (lambda: Agnostic(groups=0), r"groups=0, expected a number in \[1"),
        (lambda: Agnostic(rate=-0.1), r"rate=-0\.1"),
        (lambda: Agnostic(groups=6).build(context()), "there are 5 clients"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_rule_is_linear_but_a_mean_is():
    rules = (QFedAvg(), Tilted(), Agnostic(groups=2))
    assert not any(rule.build(context()).linear for rule in rules)
    assert Mean().build(context()).linear
