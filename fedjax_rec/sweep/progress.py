"""Progress of a sweep: one bar over all rounds of all points, or lines in a log."""

import sys
import time
from typing import Any

from tqdm import tqdm

from fedjax_rec.runs.session import is_screen


class SweepProgress:
    """Shows rounds and points on stderr.

    Args:
        rounds: number of rounds of each point that runs, by name.
        enabled: whether anything is shown.
    """

    def __init__(self, rounds: dict[str, int], enabled: bool = True):
        live = enabled and is_screen()
        self._log = enabled and not live
        self._bar = tqdm(
            total=sum(rounds.values()),
            disable=not live,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} rounds "
            "[{elapsed}<{remaining}]",
        )
        self._rounds, self._started = rounds, time.monotonic()
        self._seen = dict.fromkeys(rounds, 0)
        self._points, self._failed, self._printed = 0, 0, 0.0
        self._describe()

    def say(self, text: str) -> None:
        """Shows a sentence, which stays on the screen."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)
        elif self._log:
            self._line(text)

    def round_done(self, name: str, event: dict[str, Any]) -> None:
        """Takes an event of a point."""
        if event["event"] != "round":
            return
        # A point that runs a second time is not counted twice.
        if event["round"] > self._seen[name]:
            self._seen[name] = event["round"]
            self._bar.update(1)
        if self._log and time.monotonic() - self._printed > 10:
            total = sum(self._seen.values())
            self._line(f"{total:,} of {sum(self._rounds.values()):,} rounds")

    def point_done(self, name: str, error: str) -> None:
        """Takes the end of a point, with its error or ""."""
        self._points += 1
        self._failed += bool(error)
        self._bar.update(self._rounds[name] - self._seen[name])
        self._seen[name] = self._rounds[name]
        self._describe()
        if error:
            self.say(f"{name} failed: {error}")
        elif self._log:
            self._line(f"{name} is done: {self._counts()}")

    def close(self) -> None:
        """Stops updating the display, and leaves it on the screen."""
        self._bar.close()

    def _counts(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"point {self._points}/{len(self._rounds)}{failed}"

    def _describe(self) -> None:
        self._bar.set_description_str(self._counts())

    def _line(self, text: str) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._started
        print(f"[{seconds:6.1f} s] {text}", file=sys.stderr, flush=True)
