"""The run of a point: its folder, and checkpoints from which it goes on."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.core.arrays import Tree
from fedjax_rec.report.run import write_result
from fedjax_rec.runs import tracking
from fedjax_rec.runs.checkpoint import Checkpoints, RestoreError
from fedjax_rec.runs.folder import (
    CHECKPOINTS,
    RESULT,
    RunFolder,
    continue_run,
    has_checkpoint,
    open_run,
    read_run,
)
from fedjax_rec.runs.interrupts import Stopped
from fedjax_rec.runs.plain import plain
from fedjax_rec.runs.resume import config_hash, decisive, record_life
from fedjax_rec.simulation.loop import Event, Snapshot, diverged_in
from fedjax_rec.storage.errors import FileError
from fedjax_rec.sweep.store import Point

SAVE_SECONDS = 600
"""Seconds between checkpoints of points that run: a short sweep saves none."""


class Pauses:
    """Decides at rest whether points are saved, and whether they stop.

    Args:
        signalled: returns the signal that asks to stop, or 0.
    """

    def __init__(self, signalled: Callable[[], int]):
        self._signalled, self._saved = signalled, time.monotonic()

    def is_due(self) -> bool:
        """Whether a checkpoint is due."""
        return self._signalled() > 0 or time.monotonic() - self._saved > SAVE_SECONDS

    def saved(self, done: int) -> None:
        """Takes note of checkpoints after `done` rounds.

        Raises:
            Stopped: a signal asked for it.
        """
        self._saved = time.monotonic()
        self.check(done)

    def check(self, done: int = 0) -> None:
        """Raises `Stopped` if a signal asked for it."""
        if number := self._signalled():
            raise Stopped(done, number)


@dataclasses.dataclass
class PointRun:
    """A point that runs.

    Attributes:
        point: the point.
        folder: its run folder.
        history: its events, those before the start included.
        start: snapshot to go on from, or `None`.
        checkpoints: its checkpoints, once there are any.
    """

    point: Point
    folder: RunFolder
    history: list[Event] = dataclasses.field(default_factory=list)
    start: Snapshot | None = None
    checkpoints: Checkpoints | None = None

    @property
    def diverged(self) -> bool:
        """Whether a loss was not finite, after which the point has no more rounds."""
        return diverged_in(self.history) is not None

    def take(self, event: Event) -> None:
        """Records an event."""
        self.history.append(event)
        self.folder.append(event)

    def save(self, snapshot: Snapshot) -> None:
        """Writes a checkpoint, in the background."""
        self._opened().save(snapshot, self.folder.position())

    def restore(self, like: Tree) -> None:
        """Goes back to the newest checkpoint, which becomes `start`.

        Args:
            like: `Snapshot.arrays` of the simulation, NumPy leaves.

        Raises:
            FileError: the checkpoint cannot be used.
        """
        try:
            snapshot, position, _ = self._opened().restore(like)
        except RestoreError as error:
            advice = f"Remove {self.folder.path} to start the point again"
            raise FileError(f"{error}. {advice}") from error
        assert snapshot is not None
        self.history, self.start = self.folder.cut_back(position), snapshot
        done = snapshot.progress["round"]
        self.folder.start(done)
        record_life(self.folder, read_run(self.folder.path).versions, done, {})

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes the result, after which no checkpoint is needed."""
        write_result(self.folder, dict(result), draw=False)
        self.close()
        shutil.rmtree(self.folder.path / CHECKPOINTS, ignore_errors=True)

    def close(self) -> None:
        """Waits for a checkpoint that is being written."""
        if self.checkpoints is not None:
            self.checkpoints.close()
            self.checkpoints = None

    def _opened(self) -> Checkpoints:
        if self.checkpoints is None:
            config = config_hash(plain(self.point.experiment))
            path = self.folder.path / CHECKPOINTS
            self.checkpoints = Checkpoints(path, config, keep=1)
        return self.checkpoints


def start_round(point: Point, folder: Path, software: Mapping[str, Any]) -> int:
    """The round that a point goes on from; 0 is its start.

    A point starts again if its checkpoint was computed by other software or on another
    machine.

    Args:
        point: the point.
        folder: folder of the sweep.
        software: the current `versions()`.
    """
    path = folder / point.name
    if (path / RESULT).exists() or not has_checkpoint(path):
        return 0
    run = read_run(path)
    if run.config != plain(point.experiment):
        return 0  # `open_run` refuses the folder
    if decisive(run.versions) != decisive(software):
        return 0
    names = (p.name for p in (path / CHECKPOINTS).iterdir())
    return max(int(name) for name in names if name.isdigit())


@contextlib.contextmanager
def open_point(
    point: Point,
    folder: Path,
    software: Mapping[str, Any],
    say: Callable[[str], None],
    like: Tree | None,
) -> Iterator[PointRun]:
    """The run of a point, with its trackers.

    Args:
        point: the point.
        folder: folder of the sweep.
        software: content of `versions.json`, with the fingerprint `prepared`.
        say: called with sentences about trackers.
        like: `Snapshot.arrays` of a point that goes on; `None` for one that starts.

    Yields:
        The run.

    Raises:
        FileError: the folder cannot take the point, or a checkpoint cannot be used.
    """
    config, path = plain(point.experiment), folder / point.name
    with contextlib.ExitStack() as stack:
        if like is None:
            over = has_checkpoint(path)
            files = stack.enter_context(open_run(path, config, software, over))
        else:
            files = stack.enter_context(continue_run(path))
            _check_prepared(path, read_run(path).versions, software)
        run = PointRun(point, files)
        stack.callback(run.close)
        if like is not None:
            run.restore(like)
        trackers = tracking.start(
            point.track, files, config, say, run.history, group=folder.name
        )
        stack.push(lambda kind, *_: trackers.close(finished=kind is None))
        files.tracker = trackers
        yield run


def _check_prepared(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    before, now = (
        {name: x for name, x in versions["prepared"].items() if name != "chunks"}
        for versions in (old, new)
    )
    if before != now:
        raise FileError(
            f"{path} began with other data. Remove it to start the point again"
        )
