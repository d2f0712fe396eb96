"""What a tracker is: somebody who is told of a run beside its folder."""

from collections.abc import Mapping
from typing import Any, Protocol


class Tracker(Protocol):
    """Receives the events of a run, in order."""

    def log(self, event: Mapping[str, Any]) -> None:
        """Takes an event, as `Simulation.events` yields it."""

    def close(self, finished: bool) -> None:
        """Ends; `finished` is whether the run came to its end."""
