"""Writes a run's folder: lines that survive a kill, files complete or not at all.

`metrics.jsonl` holds no clock, so that a run that was killed and resumed equals an
unbroken one byte for byte. `timings.jsonl` holds one line for each start of the process
and one for each measured event; it is never cut, so rounds computed twice count twice.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

from fedjax_rec.evaluation import per_user
from fedjax_rec.evaluation.per_user import PerUser
from fedjax_rec.runs.plain import plain
from fedjax_rec.storage.errors import FileError, writable
from fedjax_rec.storage.files import replacing

METRICS, RESULT, REPORT = "metrics.jsonl", "result.json", "report.md"
TIMINGS, USERS = "timings.jsonl", "users.npz"


class Tracker(Protocol):
    """Receives the events of a run, in order."""

    def log(self, event: Mapping[str, Any]) -> None:
        """Takes an event, as `Simulation.events` yields it."""

    def close(self, finished: bool) -> None:
        """Ends; `finished` is whether the run was completed."""


class RunFolder:
    """Writes a run into an existing folder, which `open_run` creates and locks.

    Attributes:
        path: the folder.
        tracker: receives each event after it was written, or `None`.

    Raises:
        FileError: from every method, if the disk is full or not writable.
    """

    def __init__(self, path: Path):
        self.path = path
        self.tracker: Tracker | None = None
        self._files: dict[str, IO[bytes]] = {}
        self._started = time.perf_counter()

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`, which survives a kill from then on.

        `seconds` of the event go to `timings.jsonl`; the whole event goes to `tracker`.
        """
        self._add(METRICS, {k: v for k, v in event.items() if k != "seconds"})
        if "seconds" in event:
            self.time(event["event"], event["round"], event["seconds"])
        if self.tracker is not None:
            self.tracker.log(event)

    def time(self, event: str, done: int, seconds: float) -> None:
        """Adds the seconds of an event after `done` rounds to `timings.jsonl`."""
        elapsed = round(time.perf_counter() - self._started, 6)
        line = {"event": event, "round": done, "seconds": round(seconds, 6)}
        self._add(TIMINGS, {**line, "elapsed": elapsed})

    def start(self, done: int) -> None:
        """Adds to `timings.jsonl` that the process starts after `done` rounds."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._add(TIMINGS, {"event": "start", "round": done, "time": now})

    def position(self) -> int:
        """Size of `metrics.jsonl` in bytes, all on disk even if power fails."""
        with writable(self.path / METRICS):
            file = self._open(METRICS)
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut_back(self, position: int) -> list[dict[str, Any]]:
        """Cuts `metrics.jsonl` to its first `position` bytes, and removes the result.

        Returns:
            The remaining events.
        """
        with writable(self.path / METRICS):
            for name in (RESULT, REPORT):
                (self.path / name).unlink(missing_ok=True)
            os.truncate(self._open(METRICS).fileno(), position)
        return list(read_lines(self.path / METRICS))

    def _open(self, name: str) -> IO[bytes]:
        # Unbuffered: after a failed write, `close` has no data left to write.
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=0)
        return self._files[name]

    def _add(self, name: str, value: Mapping[str, Any]) -> None:
        line = json.dumps(plain(value), allow_nan=False) + "\n"
        with writable(self.path / name):
            file, data = self._open(name), line.encode()
            while data:  # a full disk takes a part, and refuses the rest
                data = data[file.write(data) :]

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file, completely or not at all."""
        text = json.dumps(plain(value), indent=2, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file, completely or not at all."""
        with self.replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path to write, which becomes `name` if the block succeeds."""
        target = self.path / name
        with writable(target), replacing(target) as temporary:
            yield temporary

    def write_users(self, users: PerUser | None) -> None:
        """Writes the metrics of each test user, if there are any, into `users.npz`."""
        if users is not None:
            with self.replacing(USERS) as temporary:
                per_user.write(temporary, users)

    def close(self) -> None:
        """Closes the files that lines are added to."""
        for file in self._files.values():
            file.close()
        self._files.clear()


class SilentFolder(RunFolder):
    """Writes no file: for all but the first of several processes of one run."""

    def position(self) -> int:
        return 0

    def cut_back(self, position: int) -> list[dict[str, Any]]:
        return []

    def _add(self, name: str, value: Mapping[str, Any]) -> None: ...

    def write_text(self, name: str, text: str) -> None: ...

    def write_users(self, users: PerUser | None) -> None: ...


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line, without a half-written last one.

    Raises:
        FileError: another line is broken.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):  # the process was killed in its last line
                return
            raise FileError(str(error), file=path, line=number) from error
