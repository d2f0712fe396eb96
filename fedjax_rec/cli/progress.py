"""Progress of a run in a terminal or a log, and the wait of devices for the host."""

import sys
import threading
import time
from typing import Any

from tqdm import tqdm

from fedjax_rec.runs.session import is_screen
from fedjax_rec.runs.writer import RunFolder
from fedjax_rec.simulation.simulation import Simulation

WAITING = "waiting"
"""Event name in `timings.jsonl` for the wait of the devices for the host."""


class Progress:
    """Shows a simulation's events on stderr.

    Events report finished work, so the work in progress is inferred: the first event
    waits for compilation, and an evaluation follows the last round before it.

    Args:
        rounds: total number of rounds.
        eval_every: rounds between evaluations.
        enabled: whether anything is shown.
        done: rounds done before this process began.
        extra: shown after the numbers, as text.
    """

    def __init__(
        self,
        rounds: int,
        eval_every: int,
        enabled: bool = True,
        done: int = 0,
        extra: object = "",
    ):
        live = enabled and is_screen()
        self._log = enabled and not live
        self._bar = tqdm(
            total=rounds,
            initial=done,
            disable=not live,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} rounds "
            "[{elapsed}<{remaining}{postfix}]",
        )
        self._rounds, self._eval_every, self._first = rounds, max(eval_every, 1), done
        self._started = time.monotonic()
        self._loss, self._quality, self._extra = "", "", extra
        self._evaluated = False
        self._closed = threading.Event()
        if live:
            threading.Thread(target=self._tick, daemon=True).start()
        self._say(done, "compiling…")

    def __call__(self, event: dict[str, Any]) -> None:
        """Takes an event of the simulation."""
        done = event["round"]
        if event["event"] == "round":
            self._round(event)
            if done % self._eval_every == 0 or done == self._rounds:
                text = "evaluating…" if self._evaluated else "compiling evaluation…"
                self._state(text)
            elif done == self._first + 1:
                self._say(done, "training")
            else:
                self._state("training")
        elif event["event"] == "evaluation":
            self._evaluated = True
            self._quality = _headline(event)
            self._say(done, "training")
            if done == self._rounds:
                self._say(done, "baselines…")
        else:
            self._state("done")

    def close(self) -> None:
        """Stops updating the display, and leaves it on the screen."""
        self._closed.set()
        self._bar.close()

    def _round(self, event: dict[str, Any]) -> None:
        loss = event.get("loss")
        if loss is not None:
            self._loss = f"loss {loss:.4f}"
        self._bar.set_postfix_str(self._numbers(), refresh=False)
        self._bar.update(event["round"] - self._bar.n)

    def _say(self, done: int, text: str) -> None:
        """Shows a state, also in a log."""
        if self._log:
            seconds = time.monotonic() - self._started
            line = f"[{seconds:6.1f} s] round {done}/{self._rounds}: {text}"
            numbers = self._numbers()
            print(f"{line} {numbers}".rstrip(), file=sys.stderr, flush=True)
        self._state(text)

    def _state(self, text: str) -> None:
        if not self._bar.disable and self._bar.desc != text:
            self._bar.set_description_str(text, refresh=False)
            self._bar.set_postfix_str(self._numbers(), refresh=True)

    def _numbers(self) -> str:
        parts = (self._loss, self._quality, str(self._extra))
        return ", ".join(part for part in parts if part)

    def _tick(self) -> None:
        # No event comes while XLA compiles: keep the clock running.
        while not self._closed.wait(0.5):
            self._bar.refresh()


def _headline(event: dict[str, Any]) -> str:
    """`val ndcg@10 0.1234`, or the error of explicit feedback."""
    part = "val" if "val" in event else "test"
    if f"rmse_{part}" in event:
        return f"{part} rmse {event[f'rmse_{part}']:.4f}"
    values = event.get(part, {})
    names = [n for n in values if n.startswith("ndcg@") and "/" not in n]
    name = "ndcg@10" if "ndcg@10" in names else next(iter(names), None)
    return f"{part} {name} {values[name]:.4f}" if name else ""


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
