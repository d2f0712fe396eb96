"""The round that a run is judged by."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedjax_rec.evaluation import own_metric
from fedjax_rec.evaluation.protocol import Protocol


def sign_of(metric: str, lower_is_better: Iterable[str] = ()) -> int:
    """1 if a higher value of the metric is better, -1 for an error.

    Args:
        metric: its name.
        lower_is_better: names of metrics with a low value for a good ranking.
    """
    return -1 if metric == "rmse" or metric in lower_is_better else 1


def selection_value(protocol: Protocol, event: Mapping[str, Any], rounds: int) -> float:
    """The value that evaluations are compared by; higher is better.

    Args:
        protocol: its `selection` is a metric of the validation part (if lower values
            are better, minus the value), or `last`; never one of the test.
        event: an evaluation, with its `round` and `val`.
        rounds: number of rounds of the whole run.

    Returns:
        Minus infinity if the evaluation cannot be chosen.

    >>> [selection_value(Protocol(selection="last"), {"round": n}, 4) for n in (3, 4)]
    [-inf, 4.0]
    """
    selection = protocol.selection
    if selection == "rmse":
        return -event["rmse_val"]
    if selection != "last":
        sign = sign_of(selection, own_metric.lower_is_better(protocol.metric))
        return sign * event["val"][selection]
    return float(event["round"]) if event["round"] == rounds else -math.inf


def is_selected(protocol: Protocol, value: float, best: float) -> bool:
    """Whether an evaluation replaces the best one so far.

    Args:
        protocol: says which of equal values counts.
        value: its `selection_value`.
        best: that of the best one, minus infinity if there is none.

    >>> [is_selected(Protocol(selection_ties=t), 0.5, 0.5) for t in ("first", "last")]
    [False, True]
    """
    equal = protocol.selection_ties == "last" and value == best
    return value > best or (equal and value > -math.inf)


def selected_metrics(history: Iterable[Mapping[str, Any]]) -> tuple[int, dict]:
    """The selected round, and its metrics by part.

    Args:
        history: a run's events; the last evaluation with test metrics is the best by
            validation.

    Returns:
        `(0, {})` if no evaluation has test metrics.
    """
    evaluations = [event for event in history if "test" in event]
    if not evaluations:
        return 0, {}
    event = evaluations[-1]
    metrics = {part: dict(event[part]) for part in ("val", "test") if part in event}
    for part, values in metrics.items():
        if f"rmse_{part}" in event:
            values["rmse"] = event[f"rmse_{part}"]
    return event["round"], metrics
