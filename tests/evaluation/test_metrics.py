"""Metrics against ir-measures, pytrec_eval and hand-computed lists."""

import functools

import ir_measures as ir
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import pytrec_eval
import scipy.stats

from fedjax_rec.evaluation.metrics import (
    NOT_RETRIEVED,
    full_metrics,
    ranks,
    user_metrics,
)
from fedjax_rec.evaluation.protocol import Ties, metric_names

CUTOFFS = (1, 5, 10, 20)
IR = {"hr": ir.Success, "ndcg": ir.nDCG, "recall": ir.R, "precision": ir.P}
IR |= {"mrr": ir.RR, "map": ir.AP}
TREC = {"hr": "success", "ndcg": "ndcg_cut", "recall": "recall", "precision": "P"}
TREC |= {"map": "map_cut"}


@functools.partial(jax.jit, static_argnames="ties")
def measured(positive, negative, ties: Ties = "pessimistic", key=None):
    return user_metrics(
        positive,
        jnp.ones(positive.shape, bool),
        negative,
        jnp.ones(negative.shape, bool),
        cutoffs=CUTOFFS,
        ties=ties,
        key=key,
    )


def as_run(positive, negative, positives_first):
    # trec_eval puts the larger document id first among equal scores.
    names = ("z", "a") if positives_first else ("a", "z")
    run = {f"{names[0]}{i:04}": float(s) for i, s in enumerate(positive)}
    qrels = {"u": dict.fromkeys(run, 1)}
    run |= {f"{names[1]}{i:04}": float(s) for i, s in enumerate(negative)}
    return qrels, {"u": run}


# Widths on both sides of each change of counting method (8 and 32 positives).
@pytest.mark.parametrize("width", [1, 8, 9, 32, 33])
@pytest.mark.parametrize("levels", [None, 6], ids=["distinct", "tied"])
@pytest.mark.parametrize("ties", ["pessimistic", "optimistic"])
def test_equals_pytrec_eval(width, levels, ties):
    rng = np.random.default_rng(width)
    for negatives in (3, 80) if ties == "pessimistic" else (80,):
        scores = rng.normal(size=width + negatives).astype(np.float32)
        if levels:
            scores = rng.integers(0, levels, width + negatives).astype(np.float32)
        positive, negative = scores[:width], scores[width:]
        qrels, run = as_run(positive, negative, ties == "optimistic")
        wanted = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in TREC.values()}
        oracle = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(run)["u"]
        got = measured(jnp.asarray(positive), jnp.asarray(negative), ties)
        for name, theirs in TREC.items():
            for k in CUTOFFS:
                np.testing.assert_allclose(
                    got[f"{name}@{k}"], oracle[f"{theirs}_{k}"], rtol=2e-6, atol=1e-7
                )


@pytest.mark.parametrize("width", [1, 5, 40])
def test_equals_ir_measures(width):
    rng = np.random.default_rng(width)
    scores = rng.permutation(width + 70).astype(np.float32)
    qrels, run = as_run(scores[:width], scores[width:], positives_first=False)
    measures = {f"{n}@{k}": m @ k for n, m in IR.items() for k in CUTOFFS}
    oracle = ir.calc_aggregate(list(measures.values()), qrels, run)
    got = measured(jnp.asarray(scores[:width]), jnp.asarray(scores[width:]))
    for name, measure in measures.items():
        np.testing.assert_allclose(got[name], oracle[measure], rtol=2e-6, err_msg=name)


@pytest.mark.parametrize("width", [1, 8, 40])
def test_auc_is_mann_whitney(width):
    rng = np.random.default_rng(width)
    positive, negative = rng.integers(0, 9, width) * 1.0, rng.integers(0, 9, 50) * 1.0
    pairs = positive[:, None] - negative[None, :]
    u = scipy.stats.mannwhitneyu(positive, negative).statistic / pairs.size
    expected = {"pessimistic": (pairs > 0).mean(), "optimistic": (pairs >= 0).mean()}
    expected["random"] = u
    for ties, value in expected.items():
        got = measured(
            jnp.asarray(positive, jnp.float32),
            jnp.asarray(negative, jnp.float32),
            ties,
            jax.random.key(0),
        )
        np.testing.assert_allclose(got["auc"], value, rtol=1e-6)


def test_hand_computed():
    # Ranks 2 and 4 of 6.
    got = measured(jnp.array([8.0, 6.0]), jnp.array([9.0, 7.0, 5.0, 4.0]))
    assert got["hr@1"] == 0
    assert got["hr@5"] == 1
    assert got["precision@5"] == pytest.approx(2 / 5)
    assert got["mrr@5"] == pytest.approx(1 / 2)
    assert got["map@5"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    dcg, ideal = 1 / np.log2(3) + 1 / np.log2(5), 1 + 1 / np.log2(3)
    assert got["ndcg@5"] == pytest.approx(dcg / ideal)
    assert got["auc"] == pytest.approx((3 + 2) / 8)
    assert set(got) == set(metric_names(CUTOFFS))


def test_capped_recall_can_reach_one():
    got = measured(jnp.arange(30.0) + 100, jnp.arange(50.0))
    assert got["recall@20"] == pytest.approx(20 / 30)
    assert got["recall_capped@20"] == 1
    few = measured(jnp.array([60.0, -1.0]), jnp.arange(50.0))
    assert few["recall_capped@20"] == few["recall@20"] == 0.5


@pytest.mark.parametrize("width", [1, 9, 40])
def test_constant_scorer_earns_nothing(width):
    got = measured(jnp.zeros(width), jnp.zeros(60))
    assert all(float(value) == 0 for value in got.values())


@pytest.mark.parametrize("ties", ["pessimistic", "optimistic", "random"])
@pytest.mark.parametrize("width", [1, 9, 40])
def test_nan_is_never_credited(width, ties):
    nan, key = jnp.full(width, jnp.nan), jax.random.key(0)
    for negative in (jnp.full(2, jnp.nan), jnp.full(2, -jnp.inf), jnp.zeros(2)):
        got = measured(nan, negative, ties, key)
        assert all(float(value) == 0 for value in got.values())
    # A negative scored NaN is behind every number, -inf included.
    got = measured(jnp.full(width, -jnp.inf), jnp.full(9, jnp.nan), ties, key)
    assert got["hr@1"] == 1
    assert got["auc"] == 1


@pytest.mark.parametrize("filler", [0, 12, 50])
def test_infinities_are_ordinary_scores(filler):
    padding = jnp.full(filler, -jnp.inf)
    positive = jnp.concatenate([jnp.array([jnp.inf, 0.0, -jnp.inf]), padding])
    mask = jnp.arange(3 + filler) < 3
    negative = jnp.array([jnp.inf, 1.0, -jnp.inf])
    expectations: list[tuple[Ties, list[int]]]
    expectations = [("pessimistic", [2, 4, 6]), ("optimistic", [1, 4, 5])]
    for ties, expected in expectations:
        got = ranks(positive, mask, negative, jnp.ones(3, bool), ties=ties).rank
        assert got[:3].tolist() == expected
        assert (got[3:] == NOT_RETRIEVED).all()


@pytest.mark.parametrize("filler", [0, 30])
def test_random_ties_are_uniform(filler):
    # 2 positives and 3 negatives tie behind one negative: 10 pairs of ranks from 2..6.
    positive = jnp.zeros(2 + filler)
    mask = jnp.arange(2 + filler) < 2
    negative = jnp.array([0.0, 5.0, 0.0, 0.0, -5.0])

    def draw(key):
        scores = positive, mask, negative, jnp.ones(5, bool)
        return ranks(*scores, ties="random", key=key).rank

    n = 4000
    got = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), n))[:, :2]
    pairs, counts = np.unique(np.asarray(got), axis=0, return_counts=True)
    assert len(pairs) == 10
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert pairs.min() == 2
    assert pairs.max() == 6
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_random_ties_of_two_groups_are_independent():
    # Groups of 1 positive and 1 negative, then 2 positives and 1 negative.
    positive, negative = jnp.array([2.0, 1.0, 1.0]), jnp.array([2.0, 1.0])
    mask = jnp.ones(3, bool)

    def draw(key):
        return ranks(positive, mask, negative, mask[:2], ties="random", key=key).rank

    got = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), 3000))
    outcomes, counts = np.unique(np.asarray(got), axis=0, return_counts=True)
    assert len(outcomes) == 2 * 3
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


def test_random_needs_a_key():
    with pytest.raises(ValueError, match=r"jax\.random\.key"):
        full_metrics(jnp.zeros(3), jnp.array([0]), jnp.array([3]), ties="random")


@pytest.mark.parametrize("width", [1, 20, 50])
def test_full_equals_explicit_candidates(width):
    rng = np.random.default_rng(width)
    scores = rng.integers(0, 30, 200).astype(np.float32)
    items = rng.permutation(200)
    positives, exclude, rest = items[:width], items[width : width + 40], items[90:]
    got = full_metrics(
        jnp.asarray(scores),
        jnp.asarray(np.append(positives, [200] * 3)),
        # Repeats and padding do no harm.
        jnp.asarray(np.concatenate([exclude, exclude, items[width:90], [200]])),
        cutoffs=CUTOFFS,
    )
    expected = measured(jnp.asarray(scores[positives]), jnp.asarray(scores[rest]))
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)
