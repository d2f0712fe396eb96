"""Selection of the round that a run is judged by, from its events."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def selection_value(selection: str, event: Mapping[str, Any], rounds: int) -> float:
    """The value that evaluations are compared by; higher is better.

    Args:
        selection: a metric of the validation part, or `last`; never one of the test.
        event: an evaluation, with its `round` and `val`.
        rounds: number of rounds of the whole run.

    Returns:
        Minus infinity if the evaluation cannot be chosen.

    >>> [selection_value("last", {"round": n}, 4) for n in (3, 4)]
    [-inf, 4.0]
    """
    if selection != "last":
        return event["val"][selection]
    return float(event["round"]) if event["round"] == rounds else -math.inf


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
