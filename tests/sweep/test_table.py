"""Means, intervals and the best setting, computed by hand."""

import csv
import io
from pathlib import Path

import pytest
import scipy.stats

from fedjax_rec.runs.folder import Run
from fedjax_rec.sweep.table import (
    as_csv,
    best_of,
    columns_of,
    markdown,
    selection_metric,
    settings_of,
    spread,
)


def run(rate, seed, val, test, **more):
    result = {
        "metrics": {"val": {"ndcg@10": val}, "test": {"ndcg@10": test, "hr@10": 0.5}},
        "protocol": {"selection": "ndcg@10"},
        **more,
    }
    config = {"seed": seed, "algorithm": {"type": "FedAvg", "client_lr": rate}}
    return Run(path=Path("x"), config=config, versions={}, events=[], result=result)


FIELDS = ("algorithm.client_lr", "seed")
RUNS = [
    run(0.1, 0, 0.10, 0.30),
    run(0.1, 1, 0.20, 0.50),
    run(0.1, 2, 0.30, 0.10),
    run(1.0, 0, 0.25, 0.20),
    run(1.0, 1, 0.25, 0.20),
    run(1.0, 2, 0.25, 0.20),
]


def test_mean_and_interval_by_hand():
    mean, half = spread([0.1, 0.2, 0.3])
    # s = .1, t(.975, 2) = 4.302653: .1 / sqrt(3) * 4.302653.
    assert mean == pytest.approx(0.2)
    assert half == pytest.approx(0.248414, abs=1e-6)
    low, high = scipy.stats.t.interval(0.95, 2, loc=mean, scale=0.1 / 3**0.5)
    assert (high - low) / 2 == pytest.approx(half)
    assert spread([0.5]) == (0.5, None)
    assert str(spread([0.5])) == "0.5000"


def test_rows_and_the_best_by_validation():
    settings = settings_of(RUNS, FIELDS)
    assert [s.values for s in settings] == [
        {"algorithm.client_lr": 0.1},
        {"algorithm.client_lr": 1.0},
    ]
    assert [len(s.runs) for s in settings] == [3, 3]
    assert settings[0].test["ndcg@10"].mean == pytest.approx(0.3)
    assert settings[1].test["ndcg@10"] == (pytest.approx(0.2), 0.0)
    # .25 against .20 on validation, though the test says otherwise.
    assert best_of(settings, "ndcg@10") == 1
    text = markdown(settings, "title", "ndcg@10")
    assert "| best | 1 | 3 | 0.2500 ± 0.0000 | 0.2000 ± 0.0000 |" in text
    assert "|  | 0.1 | 3 | 0.2000 ± 0.2484 | 0.3000 ± 0.4968 |" in text
    assert "test metrics do not choose it" in text


def test_the_best_of_a_metric_whose_low_values_are_good():
    metric = {"names": ["ndcg@10"], "lower_is_better": ["ndcg@10"]}
    protocol = {"selection": "ndcg@10", "metric": metric}
    more = {"protocol": protocol}
    runs = [run(0.1, 0, 0.2, 0.3, **more), run(1.0, 0, 0.1, 0.4, **more)]
    settings = settings_of(runs, FIELDS)
    assert columns_of(settings, "hr@10")[1:] == [("test", "hr@10"), ("test", "ndcg@10")]
    assert [s.sign("ndcg@10") for s in settings] == [-1, -1]
    assert [s.sign("hr@10") for s in settings] == [1, 1]
    assert best_of(settings, "ndcg@10") == 1


def test_settings_that_lost_seeds_or_diverged_are_not_the_best():
    runs = [*RUNS[:3], run(1.0, 0, 0.9, 0.9)]
    lost = [{"seed": 1, "algorithm": {"type": "FedAvg", "client_lr": 1.0}}]
    settings = settings_of(runs, FIELDS, lost)
    assert [s.failed for s in settings] == [0, 1]
    assert best_of(settings, "ndcg@10") == 0
    assert "| 1 | 1 (1 failed) |" in markdown(settings, "t", "ndcg@10")
    wild = [run(5.0, s, 0.9, 0.9, diverged_in_round=2) for s in range(3)]
    settings = settings_of([*RUNS, *wild], FIELDS)
    assert best_of(settings, "ndcg@10") == 1
    assert "3 (3 diverged)" in markdown(settings, "t", "ndcg@10")
    # A setting without any result keeps its row.
    only = settings_of([], FIELDS, lost)
    assert (len(only[0].runs), only[0].failed) == (0, 1)
    assert best_of(only, "ndcg@10") is None
    assert selection_metric([]) == ""


def test_settings_selected_by_different_metrics_have_no_best():
    """Whatever their order; a last round is compared by the metric of the others."""
    metrics = {"val": {"ndcg@10": 0.9, "rmse": 1.5}, "test": {"ndcg@10": 0.9}}
    by_error = {"selection": "rmse"}
    rated = run(1.0, 0, 0.9, 0.9, metrics=metrics, protocol=by_error)
    for runs in ([RUNS[0], rated], [rated, RUNS[0]]):
        settings = settings_of(runs, FIELDS)
        assert selection_metric(runs) == ""
        assert best_of(settings, "") is None
        text = markdown(settings, "t", "")
        assert "(ndcg@10, rmse), which cannot be compared" in text
        assert "| best |" not in text
    last = run(0.1, 0, 0.1, 0.3, protocol={"selection": "last"})
    for runs in ([last, rated], [rated, last]):
        assert selection_metric(runs) == ""
    for runs in ([last, RUNS[3]], [RUNS[3], last], [last]):
        assert selection_metric(runs) == "ndcg@10"


def test_csv_holds_every_metric():
    rows = list(
        csv.DictReader(io.StringIO(as_csv(settings_of(RUNS, FIELDS), "ndcg@10")))
    )
    assert [row["best"] for row in rows] == ["0", "1"]
    assert rows[0]["algorithm.client_lr"] == "0.1"
    assert rows[0]["finished"] == "3"
    assert float(rows[0]["val.ndcg@10"]) == pytest.approx(0.2)
    assert float(rows[0]["val.ndcg@10.half95"]) == pytest.approx(0.248414, abs=1e-6)
    assert float(rows[1]["test.hr@10"]) == 0.5
    single = settings_of(RUNS[:1], FIELDS)
    row = next(csv.DictReader(io.StringIO(as_csv(single, "ndcg@10"))))
    assert row["val.ndcg@10.half95"] == ""


def test_bytes_are_told_where_settings_differ_in_them():
    def sending(rate, seed, megabytes):
        costs = {"up_bytes": megabytes * 1e6}
        return run(rate, seed, 0.2, 0.3, costs=costs)

    runs = [sending(0.1, 0, 10), sending(0.1, 1, 14), sending(1.0, 0, 1)]
    settings = settings_of(runs, FIELDS)
    text = markdown(settings, "title", "ndcg@10")
    assert "| sent MB |" in text
    assert "| 0.1 | 2 | 12.0 |" in text
    row = next(csv.DictReader(io.StringIO(as_csv(settings, "ndcg@10"))))
    # s = 2 sqrt(2), t(.975, 1) = 12.7062: 2 * 12.7062.
    assert float(row["sent_mb"]) == pytest.approx(12)
    assert float(row["sent_mb.half95"]) == pytest.approx(25.4124, abs=1e-3)
    alike = settings_of([sending(0.1, 0, 10), sending(1.0, 0, 10.05)], FIELDS)
    assert "MB" not in markdown(alike, "title", "ndcg@10")
    assert "MB" not in markdown(settings_of(RUNS, FIELDS), "title", "ndcg@10")


def test_the_legend_names_the_best_setting():
    text = markdown(settings_of(RUNS, FIELDS), "t", "ndcg@10")
    assert "Best: algorithm.client_lr=1 (0.2500" in text
    assert "Best: by mean" in markdown(settings_of(RUNS[:0], FIELDS), "t", "ndcg@10")
