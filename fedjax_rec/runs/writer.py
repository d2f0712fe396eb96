"""What writes a run's folder: lines no kill can lose, files whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from fedjax_rec.runs import timings
from fedjax_rec.runs.plain import plain
from fedjax_rec.runs.timings import TIMINGS
from fedjax_rec.runs.tracker import Tracker
from fedjax_rec.storage.errors import FileError, writable
from fedjax_rec.storage.files import replacing

METRICS, RESULT, REPORT = "metrics.jsonl", "result.json", "report.md"


class RunFolder:
    """Writes a run into a folder that exists; `open_run` makes and locks it.

    Attributes:
        path: of the folder.
        tracker: who is told of each event beside it, or `None`.

    Raises:
        FileError: from every method, where the disk is full or not writable.
    """

    def __init__(self, path: Path):
        self.path = path
        self._files: dict[str, IO[bytes]] = {}
        self._clock = timings.Stopwatch()
        self.tracker: Tracker | None = None

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; killed now, the process has written it.

        `seconds` of the event go to `timings.jsonl`; all of it goes to `tracker`.
        """
        told = {name: value for name, value in event.items() if name != "seconds"}
        self._add(METRICS, told)
        if "seconds" in event:
            self.time(event["event"], event["round"], event["seconds"])
        if self.tracker is not None:
            self.tracker.log(event)

    def time(self, event: str, done: int, seconds: float) -> None:
        """Adds a line to `timings.jsonl`: what took how long, after `done` rounds."""
        self._add(TIMINGS, self._clock.line(event, done, seconds))

    def start(self, done: int) -> None:
        """Notes that the process begins after `done` rounds."""
        self._add(TIMINGS, self._clock.start(done))

    def position(self) -> int:
        """Bytes of `metrics.jsonl`, all of them on the disk even if power fails."""
        with writable(self.path / METRICS):
            file = self._open(METRICS)
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size

    def cut_back(self, position: int) -> list[dict[str, Any]]:
        """Leaves the first `position` bytes of `metrics.jsonl`, and no result.

        Returns:
            The events that are left.
        """
        with writable(self.path / METRICS):
            for name in (RESULT, REPORT):
                (self.path / name).unlink(missing_ok=True)
            os.truncate(self._open(METRICS).fileno(), position)
        return list(read_lines(self.path / METRICS))

    def _open(self, name: str) -> IO[bytes]:
        # Unbuffered: after a failed write, nothing is left to be written by `close`.
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=0)
        return self._files[name]

    def _add(self, name: str, value: Mapping[str, Any]) -> None:
        line = json.dumps(plain(value), allow_nan=False) + "\n"
        with writable(self.path / name):
            file, data = self._open(name), line.encode()
            while data:  # a disk that fills up takes a part, and refuses the rest
                data = data[file.write(data) :]

    def write_json(self, name: str, value: Any) -> None:
        """Writes a JSON file, whole or not at all."""
        text = json.dumps(plain(value), indent=2, allow_nan=False)
        self.write_text(name, text + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Writes a text file, whole or not at all."""
        with self.replacing(name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary path to write; it becomes `name` if the block succeeds."""
        target = self.path / name
        with writable(target), replacing(target) as temporary:
            yield temporary

    def close(self) -> None:
        """Closes the files that lines are added to."""
        for file in self._files.values():
            file.close()
        self._files.clear()


class SilentFolder(RunFolder):
    """For a process that computes its share of a run which another one writes."""

    def append(self, event: Mapping[str, Any]) -> None: ...

    def time(self, event: str, done: int, seconds: float) -> None: ...

    def start(self, done: int) -> None: ...

    def position(self) -> int:
        return 0

    def cut_back(self, position: int) -> list[dict[str, Any]]:
        return []

    def write_text(self, name: str, text: str) -> None: ...


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one a line; a half-written last one is left out.

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
            if number == len(lines):  # a run killed in the middle of its last line
                return
            raise FileError(str(error), file=path, line=number) from error
