import math

from fedjax_rec.evaluation.protocol import selected_metrics, selection_value


def test_validation_or_the_last_round_decides():
    event = {"round": 4, "val": {"auc": 0.7}, "test": {"auc": 0.9}}
    assert selection_value("auc", event, 9) == 0.7
    assert selection_value("last", event, 9) == -math.inf
    assert selection_value("last", event, 4) == 4


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
