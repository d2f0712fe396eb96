"""The driver: chunks, padding and sampled candidates change nothing they should not."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.metrics import user_metrics
from fedjax_rec.evaluation.protocol import Protocol, metric_names
from fedjax_rec.evaluation.summary import summarise
from fedjax_rec.evaluation.targets import make_targets

USERS, ITEMS = 23, 40
RNG = np.random.default_rng(0)
LABEL = RNG.choice(4, (USERS, ITEMS), p=[0.7, 0.15, 0.05, 0.1])
LABEL[5] = 0  # touched nothing: is not evaluated
SCORES = RNG.integers(0, 9, (USERS, ITEMS)).astype(np.float32)
USER, ITEM = np.divmod(np.arange(LABEL.size), ITEMS)
TRAIN, VAL, TEST = (
    (USER[LABEL.ravel() == part], ITEM[LABEL.ravel() == part]) for part in (1, 2, 3)
)


def targets(protocol):
    return make_targets(
        positives=TEST,
        known=[TRAIN, VAL],
        touched=[TRAIN, VAL, TEST],
        num_users=USERS,
        num_items=ITEMS,
        protocol=protocol,
    )


@functools.partial(jax.jit, static_argnames=("protocol", "chunk"))
def run(table, targets, protocol, chunk):
    def score(users, candidates):
        rows = table[users]
        if candidates is None:
            return rows
        return jnp.take_along_axis(rows, candidates, axis=-1)

    return evaluate(score, targets, protocol, jax.random.key(3), chunk)


def numpy_candidates(user, sampled):
    if sampled is not None:
        return sampled[sampled < ITEMS]
    return np.nonzero(LABEL[user] == 0)[0]


@pytest.mark.parametrize(
    ("candidates", "ties"),
    [("full", "pessimistic"), ("sampled", "pessimistic"), ("full", "random")],
)
def test_equals_one_user_at_a_time_for_any_chunk(candidates, ties):
    # 35 candidates: more than some users have left, so padding occurs.
    protocol = Protocol(candidates=candidates, num_candidates=35, ties=ties)
    laid = targets(protocol)
    assert 5 not in laid.user.tolist()
    expected = run(SCORES, laid, protocol, 1)
    assert set(expected) == set(metric_names(protocol.cutoffs))
    for chunk in (7,) if ties == "random" else (7, 64):
        got = run(SCORES, laid, protocol, chunk)
        for name, value in expected.items():
            assert value.shape == laid.user.shape
            np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
    if ties == "random":
        return
    for row, user in list(enumerate(laid.user.tolist()))[:2]:
        sampled = None if laid.candidates is None else np.asarray(laid.candidates[row])
        negative = SCORES[user, numpy_candidates(user, sampled)]
        positive = SCORES[user, LABEL[user] == 3]
        alone = user_metrics(
            jnp.asarray(positive),
            jnp.ones(len(positive), bool),
            jnp.asarray(negative),
            jnp.ones(len(negative), bool),
        )
        for name, value in alone.items():
            np.testing.assert_allclose(expected[name][row], value, rtol=1e-6)


def test_one_trace_for_three_rounds():
    protocol = Protocol()
    laid = targets(protocol)
    traces = []

    @jax.jit
    def step(table, key):
        traces.append(1)
        return evaluate(lambda users, _: table[users], laid, protocol, key, 8)

    for round_ in range(3):
        step(SCORES + round_, jax.random.key(round_))
    assert len(traces) == 1


def test_summary_by_hand():
    per_user = {
        "ndcg@5": jnp.array([9.0, 9.0, 9.0]),
        "ndcg@10": jnp.array([0.0, 1.0, 7.0]),
        "auc": jnp.array([0.5, 1.0, jnp.nan]),
    }
    got = summarise(per_user, jnp.array([True, True, False]))
    assert got == pytest.approx(
        {
            "ndcg@5": 9.0,
            "ndcg@10": 0.5,
            "auc": 0.75,
            "ndcg@10/worst_decile": 0.0,
            "ndcg@10/gini": 0.5,
            "ndcg@10/std": 0.5,
        }
    )
    assert all(type(value) is float for value in got.values())


def test_summary_spread_falls_back_to_the_first_cutoff():
    got = summarise(
        {"ndcg@20": jnp.ones(2), "ndcg@3": jnp.array([0.0, 1.0])}, jnp.ones(2, bool)
    )
    assert got["ndcg@3/gini"] == 0.5


def test_teaching_errors():
    full, sampled = Protocol(), Protocol(candidates="sampled")
    with pytest.raises(ValueError, match="lack sampled candidates"):
        run(SCORES, targets(full), sampled, 4)
    with pytest.raises(ValueError, match="hold sampled candidates"):
        run(SCORES, targets(sampled), full, 4)
    with pytest.raises(ValueError, match="one column per candidate"):
        run(SCORES[:, :9], targets(full), full, 4)
    with pytest.raises(ValueError, match="at least one user"):
        run(SCORES, targets(full), full, 0)


def test_cold_candidates_are_ranked_among_themselves_by_hand():
    protocol = Protocol(candidates="cold", cutoffs=(1, 2, 3), selection="hr@1")
    # Five of eight items are warm. User 0 is to find 6 and knows 0, a warm one; user 1
    # is to find 5 and 7, and knows 6 from validation.
    layout: Any = {
        "positives": (np.array([0, 1, 1]), np.array([6, 5, 7])),
        "known": [(np.array([0, 1]), np.array([0, 6]))],
        "num_users": 2,
        "num_items": 8,
        "protocol": protocol,
    }
    targets = make_targets(**layout, pool=np.array([5, 6, 7]))
    # Warm items outrank all; cold ones are 7, 5, 6 for user 0 and 6, 7, 5 for user 1.
    table = jnp.asarray([[9, 9, 9, 9, 9, 2, 1, 3], [9, 9, 9, 9, 9, 1, 3, 2.0]])
    got = run(table, targets, protocol, 2)
    # Rank 3 of three; then ranks 1 and 2 of two, for its 6 is no candidate.
    assert np.asarray(got["hr@1"]).tolist() == [0, 1]
    assert np.asarray(got["hr@2"]).tolist() == [0, 1]
    assert np.asarray(got["hr@3"]).tolist() == [1, 1]
    np.testing.assert_allclose(got["ndcg@3"], [0.5, 1])
    np.testing.assert_allclose(got["auc"][0], 0)
    with pytest.raises(ValueError, match=r"needs split=ColdItems"):
        make_targets(**layout)
    with pytest.raises(ValueError, match="outside the pool of cold items"):
        make_targets(**layout, pool=np.array([5, 6]))


def test_the_watched_items_exposure_by_hand():
    """Three users, five items; item 3 is watched, and user 2 knows it."""
    scores = jnp.asarray(
        [[5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 0, 0, 9.0, 1.0]]
    )
    protocol = Protocol(cutoffs=(1, 2, 3), selection="ndcg@1", exposed_item=3)
    targets = make_targets(
        positives=(np.array([0, 1, 2]), np.array([4, 0, 0])),
        known=[(np.array([0, 0, 2]), np.array([0, 1, 3]))],
        num_users=3,
        num_items=5,
        protocol=protocol,
    )
    found = evaluate(
        lambda users, candidates: scores[users], targets, protocol, jax.random.key(0)
    )
    # User 0 does not rank 0 and 1: item 3 is second of 2, 3, 4. User 1: second of all.
    assert np.asarray(found["exposure@1"]).tolist() == [0, 0, 0]
    assert np.asarray(found["exposure@2"]).tolist() == [1, 1, 0]
    assert np.asarray(found["exposure@3"]).tolist() == [1, 1, 0]
    tied = evaluate(
        lambda users, candidates: jnp.zeros((len(users), 5)),
        targets,
        protocol,
        jax.random.key(0),
    )
    assert not any(np.asarray(tied[f"exposure@{k}"]).any() for k in (1, 2))
    for broken in (jnp.full((3, 5), jnp.nan), scores.at[:, 3].set(jnp.nan)):
        diverged = evaluate(
            lambda users, candidates, broken=broken: broken[users],
            targets,
            protocol,
            jax.random.key(0),
        )
        assert not any(np.asarray(diverged[f"exposure@{k}"]).any() for k in (1, 2))
    with pytest.raises(
        ValueError, match="exposed_item=3: expected an item that is ranked"
    ):
        Protocol(candidates="sampled", exposed_item=3)


def test_the_spread_over_clients_of_several_users():
    # Clients 7: .2 and .4; 3: .9 (another left out); 5: nobody who counts.
    values = jnp.array([0.2, 0.9, 0.4, 0.1, 0.6])
    mask = jnp.array([True, True, True, False, False])
    summary = summarise({"ndcg@10": values}, mask, np.array([7, 3, 7, 3, 5]))
    assert summary["ndcg@10"] == pytest.approx(0.5)  # over users
    assert summary["ndcg@10/worst_decile"] == pytest.approx(0.3)
    assert summary["ndcg@10/std"] == pytest.approx(0.3)  # of .3 and .9
