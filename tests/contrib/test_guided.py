"""Guided weights against NumPy, and their laws."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.contrib.guided import PROFILE, Guided, guided
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import ClientResult, Params, Recipe, Senders
from tests.aggregators.cohorts import context

I, D, C, P, N = 12, 3, 7, 5, 20  # noqa: E741
SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros(4)}
WEIGHTS = np.array([2.0, 5.0, 0.0, 1.0, 3.0, 4.0, 2.0])
IDS = np.array([3, 11, 0, 7, 19, 5, 2])
PRESENT = WEIGHTS > 0


def cohort(seed=0):
    rng = np.random.default_rng(seed)
    deltas = {
        "item": rows.Rows(
            ids=jnp.asarray(rng.integers(0, I + 1, (C, 6)), jnp.int32),
            values=jnp.asarray(rng.normal(size=(C, 6, D)), jnp.float32),
        ),
        "w": jnp.asarray(rng.normal(size=(C, 4)), jnp.float32),
    }
    profile = rng.normal(size=(C, P)).astype(np.float32)
    loss = rng.uniform(0.3, 0.7, C).astype(np.float32)
    return deltas, profile, loss


def dense(deltas):
    tables = [
        rows.scatter_add(jnp.zeros((I, D)), jax.tree.map(lambda x, c=c: x[c], part))
        for c in range(C)
        for part in (deltas["item"],)
    ]
    flat = [np.asarray(t).ravel() for t in tables]
    return np.concatenate([np.array(flat), np.asarray(deltas["w"])], axis=1)


def aggregated(aggregator, messages, state=None, order=None):
    deltas, profile, loss = messages
    order = np.arange(C) if order is None else order
    state = aggregator.start(SHARED) if state is None else state
    acc = aggregator.init(SHARED, C)
    for part in (order[:3], order[3:]):  # in two chunks
        senders = Senders(
            slots=jnp.asarray(np.where(PRESENT, np.arange(C), C)[part]),
            ids=jnp.asarray(IDS[part]),
            loss=jnp.asarray(loss[part]),
            extras={PROFILE: jnp.asarray(profile[part])},
        )
        chunk = jax.tree.map(lambda x, part=part: x[part], deltas)
        weights = jnp.asarray(WEIGHTS[part], jnp.float32)
        acc = aggregator.update(acc, chunk, weights, senders)
    delta, state, info = aggregator.finish(acc, state, SHARED)
    flat = np.concatenate([np.ravel(delta["item"].values), np.asarray(delta["w"])])
    return flat, state, info


def cosines(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def z(signal):
    signal = signal[PRESENT]
    return np.clip((signal - signal.mean()) / signal.std(), -3, 3)


def oracle(messages, guide, vectors, last=None, before=None, now=1):
    """The mean by the weights of the docstrings, client by client."""
    x, loss = dense(messages[0]), messages[2]
    alike, predicted, similar, agree = cosines(vectors, vectors), [], [], []
    for i in np.flatnonzero(PRESENT):
        others = [j for j in np.flatnonzero(PRESENT) if j != i]
        like = np.exp(alike[i, others] / guide.temperature)
        guess = (like / like.sum()) @ x[others]
        predicted.append(cosines(x[i : i + 1], guess[None])[0, 0])
        similar.append(alike[i, others].mean())
        agree.append(cosines(x[i : i + 1], x[others].sum(0)[None])[0, 0])

    def full(values):
        result = np.zeros(C)
        result[PRESENT] = values
        return result

    seen = np.zeros(C, bool) if last is None else last[IDS] > 0
    signals = {
        "similarity": full(similar),
        "norm": np.log(np.linalg.norm(x, axis=1) + 1e-30),
        "agreement": full(agree),
        "staleness": np.where(seen, now - (0 if last is None else last[IDS]), 0.0),
        "loss_drop": np.where(seen, (0 if before is None else before[IDS]) - loss, 0.0),
    }
    logs = guide.examples * np.log(WEIGHTS[PRESENT])
    for name, signal in signals.items():
        logs = logs + getattr(guide, name) * z(signal) if getattr(guide, name) else logs
    logs = logs - guide.outlier * np.maximum(z(-full(predicted)), 0)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    return weight @ x[PRESENT], weight, np.mean(predicted)


ALL: dict[str, float] = {
    "examples": 0.5,
    "similarity": 0.7,
    "norm": -0.4,
    "agreement": 0.3,
    "staleness": -0.2,
    "loss_drop": 0.6,
    "outlier": 1.5,
    "temperature": 0.4,
}


def rule_of(**settings):
    return guided(Guided(**settings), N, P)


@pytest.mark.parametrize("likeness", ["profile", "update"])
@pytest.mark.parametrize("signals", [{}, ALL], ids=["default", "all"])
def test_against_numpy_over_two_rounds(signals, likeness):
    guide = Guided(**signals, likeness=likeness, sketch=1 << 16)  # wide enough: exact
    rule = guided(guide, N, P)
    messages = cohort()
    vectors = messages[1] if likeness == "profile" else dense(messages[0])
    got, state, info = aggregated(rule, messages)
    # In the first round all clients share these two signals.
    first = dataclasses.replace(guide, staleness=0.0, loss_drop=0.0)
    expected, weight, predicted = oracle(messages, first, vectors)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert float(info["profile_prediction"]) == pytest.approx(predicted, abs=1e-4)
    assert float(info["largest_weight"]) == pytest.approx(6 * weight.max(), rel=1e-4)
    entropy = -(weight * np.log(weight)).sum() / np.log(6)
    assert float(info["weight_entropy"]) == pytest.approx(entropy, rel=1e-4)
    assert np.flatnonzero(state.last).tolist() == sorted(IDS[PRESENT])
    # The second round: two of the six were absent for a while.
    last, before = np.asarray(state.last).copy(), np.asarray(state.loss)
    last[IDS[0]] = 0
    state = type(state)(round=jnp.int32(8), last=jnp.asarray(last), loss=state.loss)
    again = cohort(1)
    vectors = again[1] if likeness == "profile" else dense(again[0])
    got, state, _ = aggregated(rule, again, state)
    expected, _, _ = oracle(again, guide, vectors, last, before, now=9)
    np.testing.assert_allclose(got, expected, atol=5e-5)
    assert set(np.asarray(state.last)[IDS[PRESENT]].tolist()) == {9}
    np.testing.assert_allclose(
        np.asarray(state.loss)[IDS[PRESENT]], again[2][PRESENT], rtol=1e-6
    )


# Of four equal clients, three with a signal and one apart: these are 1/3^.5 deviations
# below the mean, that one 3^.5 above, or the other way round. So a factor of 1 makes
# the weight of the one exp(4 / 3^.5) times that of another.
APART = np.exp(4 / 3**0.5)
ARITHMETIC = {
    "norm": ({"lengths": [1, 1, 1, np.e]}, APART),
    "similarity": ({"profiles": [[1, 0]] * 3 + [[0, 1]]}, 1 / APART),
    "agreement": ({"lengths": [1, 1, 1, -1]}, 1 / APART),
    "staleness": ({"last": [8, 8, 8, 2]}, APART),
    "loss_drop": ({"loss": [0.5, 0.5, 0.5, 0.2]}, APART),
    # Only what is above the mean counts.
    "outlier": ({"lengths": [1, 1, 1, -1]}, np.exp(-(3**0.5))),
    "examples": ({"weights": [2, 2, 2, 6]}, 3),
}


@pytest.mark.parametrize("signal", ARITHMETIC)
def test_weights_of_three_clients_and_one_apart(signal):
    parts, ratio = ARITHMETIC[signal]
    factors: dict[str, Any] = {"examples": 0.0, "outlier": 0.0, signal: 1.0}
    rule = guided(Guided(**factors, sketch=1 << 10), 4, 2)
    shared = {"w": jnp.zeros(1)}
    lengths = np.array(parts.get("lengths", [1, 1, 1, 1]), np.float32)
    senders = Senders(
        slots=jnp.arange(4),
        ids=jnp.arange(4),
        loss=jnp.asarray(parts.get("loss", [0.5] * 4)),
        extras={PROFILE: jnp.asarray(parts.get("profiles", [[1, 0]] * 4), jnp.float32)},
    )
    state = rule.start(shared)._replace(
        round=jnp.int32(8),
        last=jnp.asarray(parts.get("last", [8] * 4), jnp.int32),
        loss=jnp.full(4, 0.6),
    )
    weights = jnp.asarray(parts.get("weights", [2] * 4), jnp.float32)
    acc = rule.update(rule.init(shared, 4), {"w": lengths[:, None]}, weights, senders)
    delta, _, info = rule.finish(acc, state, shared)
    share = np.array([1, 1, 1, ratio]) / (3 + ratio)
    assert float(delta["w"][0]) == pytest.approx(share @ lengths, rel=1e-4)
    assert float(info["largest_weight"]) == pytest.approx(4 * share.max(), rel=1e-4)
    entropy = -(share * np.log(share)).sum() / np.log(4)
    assert float(info["weight_entropy"]) == pytest.approx(entropy, rel=1e-4)


def test_without_signals_it_is_the_weighted_mean():
    messages = cohort()
    for examples in (0.0, 1.0):
        rule = rule_of(examples=examples, outlier=0.0)
        got, _, info = aggregated(rule, messages)
        weight = WEIGHTS[PRESENT] ** examples
        mean = weight @ dense(messages[0])[PRESENT] / weight.sum()
        np.testing.assert_allclose(got, mean, atol=1e-5)
    np.testing.assert_allclose(info["largest_weight"], 6 * 5 / 17, rtol=1e-5)


def test_order_changes_no_result():
    rule, messages = rule_of(**ALL), cohort()
    order = np.array([4, 1, 6, 0, 5, 2, 3])
    got, _, _ = aggregated(rule, messages, order=order)
    np.testing.assert_allclose(got, aggregated(rule, messages)[0], atol=1e-5)


def test_a_client_that_sends_the_opposite_of_its_likes_counts_less():
    deltas, profile, loss = cohort()
    profile[:] = profile[0]  # the same for all: others' deltas predict one's own
    first = np.asarray(deltas["w"])[0]
    spread = 0.1 * np.random.default_rng(3).normal(size=(C, 4))
    liar = np.ones((C, 1))
    liar[4] = -1
    deltas["w"] = jnp.asarray((first + spread) * liar, jnp.float32)
    deltas["item"] = jax.tree.map(jnp.zeros_like, deltas["item"])
    honest = WEIGHTS.copy()
    honest[4] = 0

    def distance(outlier):
        got, _, _ = aggregated(rule_of(outlier=outlier), (deltas, profile, loss))
        expected = honest @ dense(deltas) / honest.sum()
        return np.linalg.norm(got - expected)

    assert distance(3.0) < 0.05 * distance(0.0)


def train(params, frozen, examples, hparams, key, **options):
    assert PROFILE not in params.personal
    return ClientResult(
        delta=options,
        personal={"user": params.personal["user"] + 1},
        weight=jnp.float32(1),
        metrics={"loss": jnp.float32(0.5)},
        extras={"more": jnp.float32(2)},
    )


def recipe_of(aggregator) -> Recipe:
    model: Any = None
    return Recipe(
        model, train, aggregator, lambda h: None, {}, constants={"number": np.arange(N)}
    )


def test_a_profile_is_a_constant_that_clients_send():
    profiles = np.ones((N, P), np.float32)
    profile: Any = SimpleNamespace(vectors=lambda context: profiles)
    facts = context(num_clients=N, recipe=recipe_of(None))
    recipe = Guided(profile=profile).build(facts)
    assert recipe.constants is not None
    assert recipe.constants[PROFILE] is profiles
    assert "number" in recipe.constants
    vectors = jnp.arange(P, dtype=jnp.float32)
    params = Params(shared={}, personal={"user": jnp.zeros(2), PROFILE: vectors})
    update: Any = recipe.client_update
    result = update(params, (), {}, {}, jax.random.key(0), correction=3)
    assert result.delta == {"correction": 3}
    np.testing.assert_array_equal(result.personal["user"], [1, 1])
    np.testing.assert_array_equal(result.personal[PROFILE], vectors)
    np.testing.assert_array_equal(result.extras[PROFILE], vectors)
    assert float(result.extras["more"]) == 2
    acc = recipe.aggregator.init(SHARED, C)
    assert acc.numbers.deltas["profile"].shape == (C, P)


def test_the_control_by_updates_needs_no_profiles():
    facts = context(num_clients=N, recipe=recipe_of(None))
    settings = Guided(likeness="update", sketch=1 << 16)
    recipe = settings.build(facts)
    assert recipe.client_update is train
    messages = cohort()
    deltas, _, loss = messages
    senders = Senders(slots=jnp.arange(C), ids=jnp.asarray(IDS), loss=jnp.asarray(loss))
    rule = recipe.aggregator
    acc = rule.update(rule.init(SHARED, C), deltas, jnp.asarray(WEIGHTS), senders)
    delta, _, _ = rule.finish(acc, rule.start(SHARED), SHARED)
    expected, _, _ = oracle(messages, settings, dense(deltas))
    np.testing.assert_allclose(delta["w"], expected[-4:], atol=2e-5)


def test_profiles_are_needed_and_a_positive_temperature():
    facts = context(num_clients=N, recipe=recipe_of(None))
    with pytest.raises(ValueError, match="computed from the items' texts"):
        Guided().build(facts)
    with pytest.raises(ValueError, match=r"temperature=0\.0, expected"):
        Guided(temperature=0.0)
    with pytest.raises(ValueError, match="likeness='text', expected profile or update"):
        Guided(likeness="text")  # pyright: ignore[reportArgumentType]
