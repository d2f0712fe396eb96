"""FM-guided weights against NumPy, and their laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.aggregators.guided import Guidance, fm_guided
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Senders

I, D, C, P, N = 12, 3, 7, 5, 20  # noqa: E741
SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros(4)}
WEIGHTS = np.array([2.0, 5.0, 0.0, 1.0, 3.0, 4.0, 2.0])
IDS = np.array([3, 11, 0, 7, 19, 5, 2])
HERE = WEIGHTS > 0


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


def aggregated(aggregator, some, state=None, order=None):
    deltas, profile, loss = some
    order = np.arange(C) if order is None else order
    state = aggregator.start(SHARED) if state is None else state
    acc = aggregator.init(SHARED, C)
    for part in (order[:3], order[3:]):  # in two chunks
        senders = Senders(
            slots=jnp.asarray(np.where(HERE, np.arange(C), C)[part]),
            ids=jnp.asarray(IDS[part]),
            loss=jnp.asarray(loss[part]),
            profile=jnp.asarray(profile[part]),
        )
        some_ = jax.tree.map(lambda x, part=part: x[part], deltas)
        weights = jnp.asarray(WEIGHTS[part], jnp.float32)
        acc = aggregator.update(acc, some_, weights, senders)
    delta, state, info = aggregator.finish(acc, state, SHARED)
    flat = np.concatenate([np.ravel(delta["item"].values), np.asarray(delta["w"])])
    return flat, state, info


def cosines(a, b):
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def z(sign):
    sign = sign[HERE]
    return np.clip((sign - sign.mean()) / sign.std(), -3, 3)


def oracle(some, guide, own, last=None, before=None, now=1):
    """The mean by the weights of the docstrings, client by client."""
    x, loss = dense(some[0]), some[2]
    alike, predicted, similar, agree = cosines(own, own), [], [], []
    for i in np.flatnonzero(HERE):
        others = [j for j in np.flatnonzero(HERE) if j != i]
        like = np.exp(alike[i, others] / guide.temperature)
        guess = (like / like.sum()) @ x[others]
        predicted.append(cosines(x[i : i + 1], guess[None])[0, 0])
        similar.append(alike[i, others].mean())
        agree.append(cosines(x[i : i + 1], x[others].sum(0)[None])[0, 0])

    def full(values):
        found = np.zeros(C)
        found[HERE] = values
        return found

    seen = np.zeros(C, bool) if last is None else last[IDS] > 0
    signs = {
        "similarity": full(similar),
        "norm": np.log(np.linalg.norm(x, axis=1) + 1e-30),
        "agreement": full(agree),
        "staleness": np.where(seen, now - (0 if last is None else last[IDS]), 0.0),
        "loss_drop": np.where(seen, (0 if before is None else before[IDS]) - loss, 0.0),
    }
    logs = guide.examples * np.log(WEIGHTS[HERE])
    for name, sign in signs.items():
        if getattr(guide, name):
            logs = logs + getattr(guide, name) * z(sign)
    logs = logs - guide.outlier * np.maximum(z(-full(predicted)), 0)
    weight = np.exp(logs - logs.max())
    weight /= weight.sum()
    return weight @ x[HERE], weight, np.mean(predicted)


ALL = Guidance(
    examples=0.5,
    similarity=0.7,
    norm=-0.4,
    agreement=0.3,
    staleness=-0.2,
    loss_drop=0.6,
    outlier=1.5,
    temperature=0.4,
)


@pytest.mark.parametrize("likeness", ["profile", "update"])
@pytest.mark.parametrize("guide", [Guidance(), ALL], ids=["default", "all"])
def test_against_numpy_over_two_rounds(guide, likeness):
    # So wide a sketch is exact.
    rule = fm_guided(N, P, guide, likeness=likeness, sketch=1 << 16)
    some = cohort()
    own = some[1] if likeness == "profile" else dense(some[0])
    got, state, info = aggregated(rule, some)
    if guide is ALL:  # nobody was seen before: what all share says nothing
        first = Guidance(**{**vars(guide), "staleness": 0.0, "loss_drop": 0.0})
    else:
        first = guide
    expected, weight, predicted = oracle(some, first, own)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert float(info["profile_prediction"]) == pytest.approx(predicted, abs=1e-4)
    assert float(info["largest_weight"]) == pytest.approx(6 * weight.max(), rel=1e-4)
    entropy = -(weight * np.log(weight)).sum() / np.log(6)
    assert float(info["weight_entropy"]) == pytest.approx(entropy, rel=1e-4)
    assert np.flatnonzero(state.last).tolist() == sorted(IDS[HERE])
    # The second round: two of the six have not been seen for a while.
    last, before = np.asarray(state.last).copy(), np.asarray(state.loss)
    last[IDS[0]] = 0
    state = type(state)(round=jnp.int32(8), last=jnp.asarray(last), loss=state.loss)
    again = cohort(1)
    own = again[1] if likeness == "profile" else dense(again[0])
    got, state, _ = aggregated(rule, again, state)
    expected, _, _ = oracle(again, guide, own, last, before, now=9)
    np.testing.assert_allclose(got, expected, atol=5e-5)
    assert set(np.asarray(state.last)[IDS[HERE]].tolist()) == {9}
    np.testing.assert_allclose(
        np.asarray(state.loss)[IDS[HERE]], again[2][HERE], rtol=1e-6
    )


def test_without_signs_it_is_the_weighted_mean():
    for examples in (0.0, 1.0):
        rule = fm_guided(N, P, Guidance(examples=examples, outlier=0.0))
        some = cohort()
        got, _, info = aggregated(rule, some)
        weight = WEIGHTS[HERE] ** examples
        mean = weight @ dense(some[0])[HERE] / weight.sum()
        np.testing.assert_allclose(got, mean, atol=1e-5)
    np.testing.assert_allclose(info["largest_weight"], 6 * 5 / 17, rtol=1e-5)


def test_order_changes_nothing():
    rule = fm_guided(N, P, ALL)
    some = cohort()
    order = np.array([4, 1, 6, 0, 5, 2, 3])
    got, _, _ = aggregated(rule, some, order=order)
    np.testing.assert_allclose(got, aggregated(rule, some)[0], atol=1e-5)


def test_who_sends_the_opposite_of_its_likes_counts_less():
    deltas, profile, loss = cohort()
    profile[:] = profile[0]  # all alike: what the others send predicts one's own
    one = np.asarray(deltas["w"])[0]
    spread = 0.1 * np.random.default_rng(3).normal(size=(C, 4))
    liar = np.ones((C, 1))
    liar[4] = -1
    deltas["w"] = jnp.asarray((one + spread) * liar, jnp.float32)
    deltas["item"] = jax.tree.map(jnp.zeros_like, deltas["item"])
    honest = WEIGHTS.copy()
    honest[4] = 0

    def distance(outlier):
        rule = fm_guided(N, P, Guidance(outlier=outlier))
        got, _, _ = aggregated(rule, (deltas, profile, loss))
        expected = honest @ dense(deltas) / honest.sum()
        return np.linalg.norm(got - expected)

    assert distance(3.0) < 0.05 * distance(0.0)


def test_profiles_have_to_be_there():
    deltas, _, loss = cohort()
    rule = fm_guided(N, P)
    senders = Senders(slots=jnp.arange(C), ids=jnp.asarray(IDS), loss=jnp.asarray(loss))
    with pytest.raises(ValueError, match="the clients send none"):
        rule.update(rule.init(SHARED, C), deltas, jnp.ones(C), senders)
    with pytest.raises(ValueError, match="temperature must be positive"):
        fm_guided(N, P, Guidance(temperature=0.0))
