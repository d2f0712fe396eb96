"""Majority vote, against NumPy and by its law."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import (
    SGD,
    Experiment,
    FedAvg,
    MatrixFactorization,
    SyntheticData,
    build,
)
from fedjax_rec.aggregators.robust.medians import MajorityVote
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders
from tests.aggregators.cohorts import built

I, D, P = 5, 2, 14  # noqa: E741


def cohort(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, (n, P)).astype(np.float32)  # zeros abstain
    return x, rng.random((n, I)) < 0.5


def senders_of(n):
    slots = jnp.arange(n)
    return Senders(slots=slots, ids=slots, loss=jnp.zeros(n))


def seen(x, touched):
    return np.concatenate([np.repeat(touched, D, 1) * x[:, : I * D], x[:, I * D :]], 1)


@pytest.mark.parametrize("groups", [None, [[0, 3], [1], [6, 4, 2], [5, 7]]])
def test_against_numpy(groups, fold):
    x, touched = cohort(0, 8)
    weights = np.array([1, 0, 5, 1, 2, 1, 1, 1.0])  # one is absent; no vote weighs more
    rule = MajorityVote(step=0.25)
    got, _, info = fold(rule, x, weights, touched=touched, groups=groups)
    voters = np.array([0, 2, 3, 4, 5, 6, 7])
    total = np.sign(seen(x, touched)[voters]).sum(0)
    np.testing.assert_array_equal(got, 0.25 * np.sign(total))
    np.testing.assert_allclose(info["tied_share"], (total == 0).mean())
    assert 0 < (total == 0).mean() < 1


@pytest.mark.parametrize("n", [7, 8])
def test_less_than_half_cannot_turn_a_unanimous_coordinate(n, fold):
    rng = np.random.default_rng(1)
    way = np.sign(rng.normal(size=P))
    x = (way * rng.lognormal(size=(n, P))).astype(np.float32)
    rule = MajorityVote(step=1.0)
    for liars in range(n + 1):
        y = x.copy()
        y[:liars] *= -1e6
        got, _, _ = fold(rule, y)
        # A half stops every coordinate, and more than that turns it.
        want = way * np.sign(n - 2 * liars)
        np.testing.assert_array_equal(got, want)


def test_rows_that_a_client_sends_in_parts_are_one_vote():
    shared = {"item": rows.Table(values=jnp.zeros((3, 1)))}
    ids = jnp.array([[0, 0, 2], [0, 1, 3]])
    values = jnp.array([[[5.0], [-1], [-2]], [[-1], [3], [9]]])
    rule = built(MajorityVote(step=1.0))
    sent = {"item": rows.Rows(ids=ids, values=values)}
    acc = rule.update(rule.init(shared, 2), sent, jnp.ones(2), senders_of(2))
    delta, _, _ = rule.finish(acc, (), shared)
    # Row 0: 5 - 1 is up, -1 is down: a tie.
    assert delta["item"].values.reshape(-1).tolist() == [0, 1, -1]


def test_signs_carry_the_vote():
    """The vote on signs is that on the numbers, up to zeros."""
    x = np.random.default_rng(2).normal(size=(9, 6)).astype(np.float32)
    shared, rule = {"w": jnp.zeros(6)}, built(MajorityVote(step=1.0))
    for sent in (x, np.where(x < 0, -0.3, 0.3) * np.abs(x).mean(1, keepdims=True)):
        acc = rule.init(shared, 9)
        acc = rule.update(acc, {"w": jnp.asarray(sent)}, jnp.ones(9), senders_of(9))
        delta, _, _ = rule.finish(acc, (), shared)
        np.testing.assert_array_equal(delta["w"], np.sign(np.sign(x).sum(0)))


def test_the_server_rate_scales_the_step():
    small = Experiment(
        name="votes",
        data=SyntheticData(num_users=20, num_items=30, num_interactions=200),
        algorithm=FedAvg(
            model=MatrixFactorization(dim=4), negatives=1, server_optimizer=SGD(lr=0.5)
        ),
        aggregation=MajorityVote(step=0.01),
        rounds=1,
        eval_every=1,
    )
    simulation = build(small)
    start = np.asarray(simulation.state.shared["item"].values)
    simulation.advance(1)
    moved = np.asarray(simulation.state.shared["item"].values) - start
    size = np.abs(moved)
    assert ((size < 1e-8) | np.isclose(size, 0.005, rtol=1e-3)).all()
    assert (size > 0).mean() > 0.5


@pytest.mark.parametrize("step", [0.0, -1.0, np.inf, np.nan])
def test_a_step_is_positive_and_finite(step):
    with pytest.raises(ValueError, match=r"step=.*, expected a number in \(0, inf\)"):
        MajorityVote(step=step)
