"""How long the devices waited for the host, if clients are stored there."""

from typing import Any

from fedjax_rec.runs.writer import RunFolder
from fedjax_rec.simulation.simulation import Simulation

WAITING = "waiting"
"""Event name in `timings.jsonl`."""


class Waiting:
    """Measures the wait; a population stored on the devices never waits.

    Args:
        simulation: the simulation that runs.
        folder: the run's folder; each evaluation adds a line to its `timings.jsonl`.
    """

    def __init__(self, simulation: Simulation, folder: RunFolder):
        self._population, self._folder = simulation.population, folder
        self._before = self._written = simulation.population.waited
        self._training, self._compiled = 0.0, False

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes an event of the simulation."""
        if event["event"] == "round":
            # The first one waits for the compiler, and would hide all others.
            self._training += event["seconds"] if self._compiled else 0.0
            self._compiled = True
        elif event["event"] == "evaluation" and not self._population.still:
            since = self._population.waited - self._written
            self._folder.time(WAITING, event["round"], since)
            self._written += since

    @property
    def seconds(self) -> float:
        """Seconds the devices waited in this process."""
        return self._population.waited - self._before

    def __str__(self) -> str:
        """`waiting 3 %` of the time that rounds took; empty without waiting."""
        if self._population.still or not self._training:
            return ""
        return f"waiting {self.seconds / self._training:.0%}".replace("%", " %")

    def sentence(self) -> str:
        """Sentence for the end of a run; empty without waiting."""
        if not str(self):
            return ""
        return (
            f"The devices waited {self.seconds:.2f} s for the host, which brings them "
            f"each cohort: {str(self).removeprefix('waiting ')} of the time of rounds"
        )
