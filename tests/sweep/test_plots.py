"""The plots of a sweep, and the means and intervals in them."""

import io
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from fedjax_rec.runs.folder import Run
from fedjax_rec.sweep import plots
from fedjax_rec.sweep.table import settings_of, show

FIELDS = ("algorithm.client_lr", "algorithm.dim", "algorithm.model", "seed")


def run(rate, dim, model, seed, value, **more):
    events = [
        {"event": "round", "round": 1, "loss": 2 * value},
        {"event": "round", "round": 2, "loss": value},
        {"event": "evaluation", "round": 2, "val": {"ndcg@10": value}},
    ]
    metrics = {part: {"ndcg@10": value} for part in ("val", "test")}
    protocol = {"selection": "ndcg@10"}
    return Run(
        path=Path("x"),
        config={
            "seed": seed,
            "algorithm": {"client_lr": rate, "dim": dim, "model": model},
        },
        versions={},
        events=events,
        result={"metrics": metrics, "protocol": protocol, **more},
    )


RUNS = [
    run(rate, 4, model, seed, rate * (1 + seed) + (model == "ncf"))
    for model in ("mf", "ncf")
    for rate in (0.1, 0.2, 0.4)
    for seed in (0, 1)
]


def drawn(monkeypatch, draw):
    """The figure that `draw` would have written."""
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    draw()
    return figures[0]


def test_numbers_with_two_values_get_a_plot():
    settings = settings_of(RUNS, FIELDS)
    assert plots.numeric_fields(settings) == ["algorithm.client_lr"]
    assert plots.numeric_fields([]) == []
    assert plots.plot_name("algorithm.client_lr") == "client_lr.png"


def test_a_plot_holds_means_and_intervals(monkeypatch):
    settings, field = settings_of(RUNS, FIELDS), "algorithm.client_lr"
    figure = drawn(
        monkeypatch,
        lambda: plots.plot_field(settings, field, "ndcg@10", True, "x.png"),
    )
    validation, test = figure.axes
    assert validation.get_xscale() == test.get_xscale() == "log"
    mf, ncf = validation.containers
    rates = [0.1, 0.2, 0.4]
    # The mean over seeds 0 and 1 of rate * (1 + seed) is 1.5 * rate.
    assert mf.lines[0].get_xdata().tolist() == rates
    assert abs(mf.lines[0].get_ydata() - [1.5 * r for r in rates]).max() < 1e-9
    assert abs(ncf.lines[0].get_ydata() - [1 + 1.5 * r for r in rates]).max() < 1e-9
    # Half the interval: t(.975, 1) = 12.706 times s / sqrt(2) = .05 at rate .1.
    low, high = mf.lines[2][0].get_segments()[0][:, 1]
    assert abs((high - low) / 2 - 12.7062 * 0.05) < 1e-4


def test_curves_leave_out_the_loss_that_diverged(monkeypatch):
    wild = run(9.0, 4, "mf", 0, 1e30, diverged_in_round=3)
    settings = settings_of([*RUNS[:2], wild], FIELDS)
    figure = drawn(monkeypatch, lambda: plots.plot_curves(settings, "ndcg@10", "x.png"))
    losses, quality = figure.axes
    lines = [line.get_ydata() for line in losses.lines]
    assert sorted(len(line) for line in lines) == [0, 2]
    assert max(max(line) for line in lines if len(line)) < 1
    assert any("diverged" in line.get_label() for line in quality.lines)


def test_the_terminal_shows_the_best_row():
    console = Console(width=100, record=True, file=io.StringIO())
    show(console, settings_of(RUNS, FIELDS), "ndcg@10")
    lines = console.export_text().splitlines()
    best = next(line for line in lines if line.strip().startswith("best"))
    assert best.split()[1:4] == ["0.4", "4", "ncf"]


def test_the_front_joins_the_unbeaten(monkeypatch):
    sent = {
        0.1: 4.0,
        0.2: 9.0,
        0.4: 2.0,
    }  # the rate .4 is better than both, and costs less
    runs = [
        run(
            rate, 4, "mf", seed, rate, costs={"up_bytes": 1e6 * sent[rate] * (1 + seed)}
        )
        for rate in sent
        for seed in (0, 1)
    ]
    settings = settings_of(runs, FIELDS)
    figure = drawn(monkeypatch, lambda: plots.plot_front(settings, "ndcg@10", "x.png"))
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    at = [c.lines[0].get_xdata().tolist() for c in axes.containers]
    assert at == [[6.0], [13.5], [3.0]]  # means over seeds: 1.5 times
    front = axes.lines[-1]
    assert (front.get_xdata().tolist(), front.get_ydata().tolist()) == ([3.0], [0.4])
