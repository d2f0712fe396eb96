"""A sweep's folder: `sweep.json`, a run folder per point, tables; always readable."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.experiment.fields import text_of, with_values
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.report.run import write_report
from fedjax_rec.runs.folder import (
    CONFIG,
    REPORT,
    RESULT,
    Run,
    RunFolder,
    check_same,
    read_run,
)
from fedjax_rec.runs.missing import SWEEP
from fedjax_rec.runs.plain import plain
from fedjax_rec.storage.errors import UserError, writable
from fedjax_rec.storage.files import locked

WAITING, FINISHED, FAILED = "waiting", "finished", "failed"
"""Status of a point."""
_FIX = "Choose another --output"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: name of its folder.
        experiment: the experiment with these values.
        track: trackers that receive its events, names of `tracking.KINDS`.
    """

    name: str
    experiment: Experiment
    track: tuple[str, ...] = ()


class SweepFolder:
    """The folder of a sweep, and the status of each point.

    Args:
        path: the folder, created if absent.
        bases: the experiments that points change; a point's value of `name` chooses
            among several.

    Attributes:
        points: name to `{"values", "status", "error"}`.
        geometric: fields with values in geometric progression.

    Raises:
        UserError: the folder holds something else, or a sweep of another base.
    """

    def __init__(self, path: Path, bases: Sequence[Experiment]):
        self.path, self._bases = path, {base.name: base for base in bases}
        self._forget()
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; expected a folder. {_FIX}")
        if (path / SWEEP).exists():
            self._read(path / SWEEP)
        elif path.is_dir():
            names = sorted(p.name for p in path.iterdir() if p.name[0] != ".")
            if names:
                raise UserError(
                    f"{path} holds {', '.join(names[:3])} and no sweep; expected an "
                    f"empty folder or a sweep's. {_FIX}"
                )

    def _forget(self) -> None:
        self.points: dict[str, dict[str, Any]] = {}
        self.geometric: list[str] = []
        self._names: dict[str, str] = {}

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            self.points, bases = dict(content["points"]), content["bases"]
            self.geometric = list(content["geometric"])
            for name, entry in self.points.items():
                self._names[_in_any_order(entry["values"])] = name
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error}). {_FIX}") from error
        problem = "holds a sweep of another config"
        check_same(self.path, problem, bases, plain(self._bases), _FIX)

    def add(self, values: Mapping[str, Any]) -> Point:
        """The point with these values, checked; on disk with the next `save`.

        The order of the fields makes no difference.
        """
        name = self._names.setdefault(_in_any_order(values), point_name(values))
        experiment = self.experiment(values)
        self.points.setdefault(name, {"values": dict(values), "status": WAITING})
        return Point(name=name, experiment=experiment)

    def experiment(self, values: Mapping[str, Any]) -> Experiment:
        """The experiment of a point with these values, checked."""
        base = self._bases[values.get("name", next(iter(self._bases)))]
        return with_values(base, values)

    def is_finished(self, point: Point) -> bool:
        """Whether the point's folder holds its result.

        Raises:
            UserError: it holds another run.
        """
        folder = self.path / point.name
        if not (folder / CONFIG).exists():
            return False
        config = read_run(folder).config
        check_same(folder, "holds another run", config, plain(point.experiment), _FIX)
        return (folder / RESULT).exists()

    def complete(self, point: Point) -> None:
        """Writes the report of a finished point that has none: the disk was full."""
        if not (self.path / point.name / REPORT).exists():
            write_report(RunFolder(self.path / point.name), draw=False)

    def set_status(self, name: str, status: str, error: str = "") -> None:
        """Records the status of a point, in memory."""
        entry = {"values": self.points[name]["values"], "status": status}
        self.points[name] = {**entry, "error": error} if error else entry

    def with_status(self, status: str) -> dict[str, dict[str, Any]]:
        """The points with a status, by name."""
        return {
            n: entry for n, entry in self.points.items() if entry["status"] == status
        }

    def save(self) -> None:
        """Writes `sweep.json`, completely or not at all."""
        content = {
            "bases": plain(self._bases),
            "geometric": self.geometric,
            "points": self.points,
        }
        self.writer().write_json(SWEEP, content)

    def writer(self) -> RunFolder:
        """Writes files into the folder, each completely or not at all."""
        with writable(self.path, _FIX):
            self.path.mkdir(parents=True, exist_ok=True)
        return RunFolder(self.path)

    def fields(self) -> list[str]:
        """Every field that some point changes, in order of appearance."""
        points = self.points.values()
        return list(dict.fromkeys(f for entry in points for f in entry["values"]))

    def runs(self) -> list[Run]:
        """The finished points."""
        return [read_run(self.path / name) for name in self.with_status(FINISHED)]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second sweep out of the folder, and reads it again.

        A sweep that has ended in the meantime may have added points.

        Raises:
            UserError: another process holds the lock.
        """
        with locked(self.path / ".lock", fix=_FIX):
            self._forget()
            if (self.path / SWEEP).exists():
                self._read(self.path / SWEEP)
            yield


def _in_any_order(values: Mapping[str, Any]) -> str:
    return json.dumps(plain(values), sort_keys=True)


def point_name(values: Mapping[str, Any]) -> str:
    """The name of a point's folder.

    >>> point_name({"algorithm.client_lr": 0.1, "seed": 3})
    'client_lr=0.1,seed=3'
    """
    ends = [field.rpartition(".")[2] for field in values]
    parts = [
        f"{end if ends.count(end) == 1 else field}={text_of(value)}"
        for end, (field, value) in zip(ends, values.items(), strict=True)
    ]
    name = ",".join(parts) or "base"
    safe = re.sub(r"[^\w.+=,-]+", "-", name)
    floats = [value for value in values.values() if isinstance(value, float)]
    exact = all(float(text_of(value)) == value for value in floats)
    if safe == name and len(name) <= 150 and exact:
        return name
    # Names that were changed or cut could collide without the hash.
    digest = hashlib.sha256(json.dumps(plain(values)).encode()).hexdigest()[:8]
    return f"{safe[:140]}-{digest}"
