"""What took how long: a file beside the metrics, which hold no clock.

A run that was killed and resumed equals an unbroken one byte for byte in all that it
computes, so the clock has a file of its own. A line a life of the process begins it,
then follows a line a thing done; nothing is ever cut from it, so that rounds computed
twice count twice.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

TIMINGS = "timings.jsonl"

_KINDS = {"round": "train", "evaluation": "evaluate"}


class Stopwatch:
    """The clock of one life of the process."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def start(self, done: int) -> dict[str, Any]:
        """The line that begins a life after `done` rounds."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        return {"event": "start", "round": done, "time": now}

    def line(self, event: str, done: int, seconds: float) -> dict[str, Any]:
        """The line of something that took `seconds`."""
        elapsed = time.perf_counter() - self._started
        return {
            "event": event,
            "round": done,
            "seconds": round(seconds, 6),
            "elapsed": round(elapsed, 6),
        }


def total(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by kind over all lives of a run's process.

    Returns:
        `train`, `evaluate`, and each other event under its name; `total`, where a life
        counts until the last thing it wrote; `lives`. Empty without lines.

    >>> total([{"event": "start"}, {"event": "round", "seconds": 2.0, "elapsed": 2.5},
    ...        {"event": "start"}, {"event": "round", "seconds": 1.0, "elapsed": 1.5}])
    {'total': 4.0, 'lives': 2, 'train': 3.0}
    """
    found: dict[str, float] = {}
    elapsed: list[float] = []
    for line in lines:
        if line["event"] == "start" or not elapsed:
            elapsed.append(0.0)
        if "seconds" in line:
            kind = _KINDS.get(line["event"], line["event"])
            found[kind] = found.get(kind, 0.0) + line["seconds"]
            elapsed[-1] = line["elapsed"]
    if not elapsed:
        return {}
    return {"total": sum(elapsed), "lives": len(elapsed), **found}
