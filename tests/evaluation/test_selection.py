import math

import pytest

from fedjax_rec.evaluation.protocol import (
    Protocol,
    paper_compat,
    settled,
    without_rmse,
)
from fedjax_rec.evaluation.selection import (
    is_selected,
    selected_metrics,
    selection_value,
)


def test_validation_or_the_last_round_decides():
    event = {"round": 4, "val": {"auc": 0.7}, "test": {"auc": 0.9}}
    assert selection_value(Protocol(selection="auc"), event, 9) == 0.7
    assert selection_value(Protocol(selection="last"), event, 9) == -math.inf
    errors = [{"round": 1, "rmse_val": 1.5}, {"round": 2, "rmse_val": 0.5}]
    values = [selection_value(Protocol(selection="rmse"), event, 9) for event in errors]
    assert values[1] > values[0]  # lower is better
    assert selection_value(Protocol(selection="last"), event, 4) == 4


def test_auto_is_rmse_where_it_is_computed_and_ndcg_elsewhere():
    assert settled(Protocol()).selection == "rmse"
    assert settled(Protocol(), "no ratings").selection == "ndcg@10"
    assert settled(Protocol(cutoffs=(3, 5)), "no ratings").selection == "ndcg@3"
    chosen = Protocol(selection="auc")
    assert settled(chosen) is chosen
    with pytest.raises(ValueError, match=r"'rmse': no ratings\. Choose"):
        settled(Protocol(selection="rmse"), "no ratings")


@pytest.mark.parametrize(
    ("evaluated", "predicts", "cold", "reason"),
    [
        ("aggregated", True, False, ""),
        ("aggregated", False, False, "needs a system that predicts ratings"),
        ("tuned", True, False, "evaluated='tuned' ranks with others"),
        ("reconstructed", True, False, "evaluated='reconstructed' ranks with others"),
        ("aggregated", True, True, "users who take part in no round"),
    ],
)
def test_the_reason_without_rmse(evaluated, predicts, cold, reason):
    got = without_rmse(Protocol(evaluated=evaluated), predicts, cold)
    assert reason in got
    assert bool(got) == bool(reason)


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
