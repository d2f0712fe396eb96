"""Which round a run is judged by: pure functions of its events."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def selection_value(selection: str, event: Mapping[str, Any], rounds: int) -> float:
    """What an evaluation is chosen by; higher is better, and the test has no say.

    Args:
        selection: a metric of the validation part, or `last`.
        event: an evaluation, with its `round` and `val`.
        rounds: of the whole run.

    Returns:
        Minus infinity where the evaluation cannot be chosen.

    >>> [selection_value("last", {"round": n}, 4) for n in (3, 4)]
    [-inf, 4.0]
    """
    if selection != "last":
        return event["val"][selection]
    return float(event["round"]) if event["round"] == rounds else -math.inf


def selected_metrics(history: Iterable[Mapping[str, Any]]) -> tuple[int, dict]:
    """The selected round, and its metrics by part.

    Args:
        history: a run's events; the last evaluation that looked at the test is the
            best by validation.

    Returns:
        `(0, {})` where no evaluation did.
    """
    found = [event for event in history if "test" in event]
    if not found:
        return 0, {}
    event = found[-1]
    metrics = {part: dict(event[part]) for part in ("val", "test") if part in event}
    for part, values in metrics.items():
        if f"rmse_{part}" in event:
            values["rmse"] = event[f"rmse_{part}"]
    return event["round"], metrics
