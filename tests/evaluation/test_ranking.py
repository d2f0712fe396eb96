"""Metrics of a user's own: first places, novelty, and what is refused."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_rec as fr
from fedjax_rec.data.interactions import Entities, make_interactions
from fedjax_rec.evaluation.evaluate import evaluate
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.ranking import Ranking, bind
from fedjax_rec.evaluation.selection import selection_value
from fedjax_rec.evaluation.targets import make_targets

USERS, ITEMS, K = 9, 14, 4
RNG = np.random.default_rng(0)
LABEL = RNG.choice(3, (USERS, ITEMS), p=[0.6, 0.25, 0.15])
LABEL[:, 0] = 2
SCORES = RNG.integers(0, 4, (USERS, ITEMS)).astype(np.float32)
SCORES[1, 2:5] = np.nan, -np.inf, np.inf
TRAIN, TEST = (np.nonzero(np.equal(LABEL, part)) for part in (1, 2))
POOL = np.array([*{*TEST[1].tolist(), 3}])


@dataclasses.dataclass(frozen=True)
class First:
    """Ids, number and positives of the first places."""

    k: int = K

    @property
    def names(self):
        return ("ids", "filled", "hits")

    def build(self, train):
        def measure(ranking):
            top = ranking.top(self.k)
            place = jnp.arange(1, self.k + 1)
            ids = jnp.sum(jnp.where(top.filled, place * top.items, 0))
            return {"ids": ids, "filled": top.filled.sum(), "hits": top.hits.sum()}

        return measure


def targets(protocol):
    pairs = {"positives": TEST, "known": [TRAIN], "touched": [TRAIN, TEST]}
    pool = POOL if protocol.candidates == "cold" else None
    sizes = {"num_users": USERS, "num_items": ITEMS, "protocol": protocol}
    return make_targets(**pairs, pool=pool, **sizes)


@functools.partial(jax.jit, static_argnames=("protocol", "metric"))
def run(laid_out, protocol, metric):
    def score(users, candidates):
        rows = jnp.asarray(SCORES)[users]
        if candidates is None:
            return rows
        return jnp.take_along_axis(rows, candidates, axis=-1)

    key = jax.random.key(1)
    return evaluate(score, laid_out, protocol, key, chunk=4, metric=metric)


def measured(protocol, train=None):
    laid_out = targets(protocol)
    metric = bind(protocol, train, laid_out)
    return laid_out, jax.device_get(run(laid_out, protocol, metric))


def first_places(protocol, laid_out, at):
    """The first items of a user that is evaluated, by sorting in Python."""
    user = laid_out.user[at]
    ranked = np.flatnonzero(LABEL[user] != 1)
    if protocol.candidates == "cold":
        ranked = [i for i in ranked if i in POOL or LABEL[user, i] == 2]
    if protocol.candidates == "sampled":
        ids = np.concatenate([laid_out.candidates[at], laid_out.positives[at]])
        ranked = [i for i in ids if i < ITEMS]
    found = [i for i in ranked if not np.isnan(SCORES[user, i])]
    last = {"pessimistic": 2, "optimistic": 0}[protocol.ties]
    sign = 1 if last else -1

    def place(i):
        return -SCORES[user, i], sign * (LABEL[user, i] == 2)

    return sorted(found, key=place)[:K]


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
@pytest.mark.parametrize("candidates", ["full", "sampled", "cold"])
def test_the_first_places_are_those_of_sorting(candidates, ties):
    protocol = Protocol(
        candidates=candidates, num_candidates=6, ties=ties, cutoffs=(K,), metric=First()
    )
    laid_out, values = measured(protocol)
    for at in range(len(laid_out.user)):
        expected = first_places(protocol, laid_out, at)
        ids = sum(place * item for place, item in enumerate(expected, 1))
        assert values["ids"][at] == ids
        assert values["filled"][at] == len(expected)
    np.testing.assert_allclose(values["hits"], K * values[f"precision@{K}"], atol=1e-6)


def test_random_ties_are_uniform_and_spare_higher_scores():
    scores = jnp.asarray([1.0, 3.0, 2.0, 2.0, 2.0, 2.0])

    def first(key):
        mask = jnp.ones(6, bool)
        ranking = Ranking(
            user=jnp.int32(0),
            items=jnp.arange(6),
            scores=scores,
            candidates=mask,
            positives=mask,
            ties="random",
            key=key,
        )
        return ranking.top(3).items

    items = np.asarray(jax.vmap(first)(jax.random.split(jax.random.key(0), 4000)))
    assert (items[:, 0] == 1).all()
    counts = np.bincount(items[:, 1:].ravel(), minlength=6)
    assert counts[[0, 1]].tolist() == [0, 0]
    np.testing.assert_allclose(counts[2:], 2000, atol=130)  # 4 standard deviations


def test_places_beyond_the_last_candidate_are_empty():
    protocol = Protocol(cutoffs=(K,), metric=First(k=ITEMS + 3))
    laid_out, values = measured(protocol)
    ranked = (LABEL != 1).sum(axis=1)
    ranked[1] -= (LABEL[1, 2] != 1).sum()  # NaN
    np.testing.assert_array_equal(values["filled"], ranked[laid_out.user])
    known = (LABEL[1] == 2) & ~np.isnan(SCORES[1])
    assert values["hits"][laid_out.user.tolist().index(1)] == known.sum()


@pytest.mark.parametrize("candidates", ["full", "sampled"])
def test_novelty_is_the_mean_self_information_of_the_first_places(candidates):
    """Zhou et al. 2010: `log2(U / n)` bits of an item that `n` of `U` users have."""
    metric = fr.Novelty(k=K)
    protocol = Protocol(
        candidates=candidates, num_candidates=30, cutoffs=(K,), metric=metric
    )
    train = make_interactions(
        user=TRAIN[0],
        item=TRAIN[1],
        users=Entities(ids=[str(i) for i in range(USERS + 5)]),
        items=Entities(ids=[str(i) for i in range(ITEMS)]),
    )
    laid_out, values = measured(protocol, train)
    users = len(set(TRAIN[0].tolist()))
    count = [max(TRAIN[1].tolist().count(item), 1) for item in range(ITEMS)]
    for at in range(len(laid_out.user)):
        bits = [np.log2(users / count[i]) for i in first_places(protocol, laid_out, at)]
        assert values[f"novelty@{K}"][at] == pytest.approx(np.mean(bits), abs=1e-5)
    assert values[f"novelty@{K}"].std() > 0.1


def test_without_a_metric_nothing_is_added():
    plain = Protocol(cutoffs=(K,))
    _, values = measured(plain)
    _, more = measured(dataclasses.replace(plain, metric=First()))
    assert more.keys() - values.keys() == {"ids", "filled", "hits"}
    for name, column in values.items():
        np.testing.assert_array_equal(column, more[name])


class Wrong:
    """A metric with one fault."""

    names: Any = ("mine",)

    def __init__(self, **members):
        vars(self).update(members)

    def build(self, train):
        return lambda ranking: {"mine": jnp.float32(1)}


class Lists(list):
    """A metric that cannot be hashed."""

    names = ("mine",)
    build = Wrong.build


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("novelty", r"metric='novelty' has no names and no build; expected a frozen"),
        (fr.Novelty, r"metric=Novelty is a class: call Novelty\(\)"),
        (Lists(), r"metric=Lists\(...\) cannot be hashed: .*frozen=True"),
        (Wrong(names="mine"), r"names='mine': expected a tuple of distinct names"),
        (Wrong(names=()), r"names=\(\): expected a tuple of distinct names"),
        (Wrong(names=("a", "a")), "expected a tuple of distinct names"),
        (Wrong(names=("a b",)), "has 'a b': expected letters, digits"),
        (Wrong(names=("ndcg@10",)), "has 'ndcg@10', which is taken: rename it"),
        (Wrong(names=("user",)), "has 'user', which is taken"),
        (Wrong(lower_is_better=("x",)), "lower_is_better has x, which is not among"),
    ],
)
def test_metrics_that_cannot_be_named_are_refused(metric, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Protocol(metric=metric)


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda r: jnp.float32(1), "returned .*; expected a dict with the names mine"),
        (lambda r: {"other": jnp.float32(1)}, r"returned \['other'\]; expected a dict"),
        (
            lambda r: {"mine": r.scores},
            r"returned mine of shape \(14,\); expected a sc",
        ),
        (lambda r: {"mine": np.sort(r.scores)[0]}, "computes with NumPy, or decides"),
        (
            lambda r: {"mine": 1.0 if r.scores[0] > 0 else 0.0},
            "jnp.where for an if",
        ),
        (None, r"build\(train\) returned a NoneType; expected a function"),
    ],
)
def test_results_of_another_form_are_refused_before_a_round(measure, message):
    protocol = Protocol(metric=Wrong(build=lambda train: measure))
    with pytest.raises(ValueError, match=message):
        bind(protocol, None, targets(protocol))


def test_a_round_is_selected_by_a_metric_whose_low_values_are_good():
    metric = Wrong(names=("bad", "good"), lower_is_better=("bad",))
    event = {"round": 1, "val": {"bad": 0.25, "good": 0.5}}
    chosen = {name: Protocol(metric=metric, selection=name) for name in metric.names}
    assert selection_value(chosen["good"], event, 9) == 0.5
    assert selection_value(chosen["bad"], event, 9) == -0.25
    with pytest.raises(ValueError, match="selection='bad' names no validation metric"):
        Protocol(selection="bad")
