import math

import pytest

from fedjax_rec.evaluation.protocol import (
    Protocol,
    is_selected,
    paper_compat,
    selected_metrics,
    selection_value,
    settled,
)


def test_validation_or_the_last_round_decides():
    event = {"round": 4, "val": {"auc": 0.7}, "test": {"auc": 0.9}}
    assert selection_value("auc", event, 9) == 0.7
    assert selection_value("last", event, 9) == -math.inf
    errors = [{"round": 1, "rmse_val": 1.5}, {"round": 2, "rmse_val": 0.5}]
    values = [selection_value("rmse", event, 9) for event in errors]
    assert values[1] > values[0]  # lower is better
    assert selection_value("last", event, 4) == 4


def test_auto_is_rmse_for_ratings_and_ndcg_elsewhere():
    assert settled(Protocol(), explicit=True).selection == "rmse"
    assert settled(Protocol(), explicit=False).selection == "ndcg@10"
    narrow = Protocol(cutoffs=(3, 5))
    assert settled(narrow, explicit=False).selection == "ndcg@3"
    chosen = Protocol(selection="auc")
    assert settled(chosen, explicit=True) is chosen
    with pytest.raises(ValueError, match="needs a system that predicts ratings"):
        settled(Protocol(selection="rmse"), explicit=False)


def test_the_last_look_at_the_test_is_what_was_selected():
    history = [
        {"event": "round", "round": 1},
        {"round": 1, "val": {"auc": 0.5}, "test": {"auc": 0.4}, "rmse_test": 1.5},
        {"round": 2, "val": {"auc": 0.6}, "test": {"auc": 0.3}, "rmse_test": 1.25},
        {"round": 3, "val": {"auc": 0.5}, "rmse_test": 1.0},
    ]
    expected = {"val": {"auc": 0.6}, "test": {"auc": 0.3, "rmse": 1.25}}
    assert selected_metrics(history) == (2, expected)
    assert "rmse" not in history[2]["test"]
    assert selected_metrics(history[:1]) == (0, {})


def test_of_equal_rounds_the_first_or_the_last_is_selected():
    for protocol, last in ((Protocol(), False), (paper_compat(), True)):
        assert is_selected(protocol, 0.6, 0.5)
        assert is_selected(protocol, 0.5, 0.5) == last
        assert not is_selected(protocol, 0.4, 0.5)
        assert not is_selected(protocol, -math.inf, -math.inf)
        assert not is_selected(protocol, math.nan, 0.5)
