"""Levels of chance, by enumeration of all rankings."""

import itertools

import numpy as np
import pytest

from fedjax_rec.evaluation.chance import above_chance, chance_level
from fedjax_rec.evaluation.protocol import Protocol
from fedjax_rec.evaluation.targets import make_targets

ITEMS = 9
POSITIVES = (np.array([0, 0, 2]), np.array([1, 4, 7]))
KNOWN = (np.array([0, 0, 0, 1, 2, 2]), np.array([0, 2, 3, 3, 6, 8]))


def targets_of(pool=None, **protocol):
    return make_targets(
        positives=POSITIVES,
        known=[KNOWN],
        touched=[KNOWN],
        pool=pool,
        num_users=3,
        num_items=ITEMS,
        protocol=Protocol(**protocol),
    )


def enumerated(positive, negative, k):
    """Mean and variance of hit and AUC over all rankings of one user."""
    hits, areas = [], []
    for ranks in itertools.combinations(range(positive + negative), positive):
        hits.append(ranks[0] < k)
        behind = [negative - (rank - at) for at, rank in enumerate(ranks)]
        areas.append(np.mean(behind) / negative)
    return np.mean(hits), np.var(hits), np.mean(areas), np.var(areas)


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        # User 0 has 2 positives and 3 known items of 9, user 2 has 1 and 2.
        ({}, [(2, 4), (1, 6)]),
        ({"candidates": "sampled", "num_candidates": 3}, [(2, 3), (1, 3)]),
        # Of the pool, user 0 knows item 3, and user 2 knows item 6.
        ({"candidates": "cold", "pool": [1, 3, 4, 6, 7]}, [(2, 2), (1, 3)]),
    ],
)
def test_chance_is_the_mean_over_all_rankings(options, counts):
    levels = chance_level(targets_of(**options), (1, 2, 20))
    for k in (1, 2, 20):
        hit, hits, area, areas = np.transpose(
            [enumerated(positive, negative, k) for positive, negative in counts]
        )
        assert levels[f"hr@{k}/chance"] == pytest.approx(hit.mean())
        assert levels[f"hr@{k}/error"] == pytest.approx(np.sqrt(hits.sum()) / 2)
        assert levels["auc/chance"] == pytest.approx(area.mean())
        assert levels["auc/error"] == pytest.approx(np.sqrt(areas.sum()) / 2)


def test_a_leak_shows_in_hits_or_in_the_area():
    levels = {"hr@10/chance": 0.1, "hr@10/error": 0.01}
    levels |= {"auc/chance": 0.5, "auc/error": 0.01}
    assert above_chance({**levels, "hr@10": 0.139, "auc": 0.539}, 10) == ()
    assert above_chance({**levels, "hr@10": 0.141, "auc": 0.539}, 10) == ("hr@10",)
    assert above_chance({**levels, "hr@10": 0.1, "auc": 0.541}, 10) == ("auc",)
    assert above_chance({"hr@10": 0.9, "auc": 0.9}, 10) == ()  # a result of before
