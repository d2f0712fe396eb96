"""A sweep's folder: `sweep.json`, a run folder a point, tables; read at any moment."""

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
from fedjax_rec.runs.folder import (
    CONFIG,
    RESULT,
    Run,
    RunFolder,
    differences,
    plain,
    read_run,
)
from fedjax_rec.storage.errors import UserError, writable
from fedjax_rec.storage.locks import locked

SWEEP = "sweep.json"
_FIX = "Choose another --output"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """One run of a sweep.

    Attributes:
        name: of its folder in the sweep's.
        values: what it changes in the base, by field.
        experiment: what it runs.
        track: who is told of it beside its folder, of `tracking.KINDS`.
    """

    name: str
    values: dict[str, Any]
    experiment: Experiment
    track: tuple[str, ...] = ()


class SweepFolder:
    """The folder of a sweep and what it says of each point.

    Args:
        path: made where absent.
        bases: the experiments that points change; where there are several, a point's
            value of `name` says which.

    Attributes:
        points: name to `{"values", "status", "error"}`; the status is `waiting`,
            `finished` or `failed`.
        geometric: fields whose values were laid out in one ratio.

    Raises:
        UserError: the folder holds something else, or a sweep of another base.
    """

    def __init__(self, path: Path, bases: Sequence[Experiment]):
        self.path, self._bases = path, {base.name: base for base in bases}
        self.points: dict[str, dict[str, Any]] = {}
        self.geometric: list[str] = []
        self._names: dict[str, str] = {}
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; expected a folder. Choose another")
        found = path / SWEEP
        if not found.exists():
            inside = [p.name for p in path.iterdir()] if path.is_dir() else []
            inside = sorted(n for n in inside if not n.startswith("."))
            if inside:
                raise UserError(
                    f"{path} holds {', '.join(inside[:3])} and no sweep; expected an "
                    "empty folder or a sweep's. Choose another --output"
                )
            return
        try:
            told = json.loads(found.read_text(encoding="utf-8"))
            self.points, before = dict(told["points"]), told["bases"]
            self.geometric = list(told["geometric"])
            values = {name: one["values"] for name, one in self.points.items()}
            self._names = {_in_any_order(v): name for name, v in values.items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{found} cannot be read ({error}). Choose another --output"
            ) from error
        changes = differences(before, plain(self._bases))
        if changes:
            lines = "\n".join(f"  {line}" for line in changes)
            raise UserError(
                f"{path} holds a sweep of another config:\n{lines}\n"
                "Choose another --output"
            )

    def add(self, values: Mapping[str, Any]) -> Point:
        """The point of these values, checked; on disk with the next `save`.

        Fields that come in another order than before are the same point.
        """
        name = self._names.setdefault(_in_any_order(values), point_name(values))
        point = Point(
            name=name,
            values=dict(values),
            experiment=self.experiment(values),
        )
        told = {"values": dict(values), "status": "waiting"}
        self.points.setdefault(point.name, told)
        return point

    def experiment(self, values: Mapping[str, Any]) -> Experiment:
        """What a point of these values runs, checked."""
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
        run = read_run(folder)
        changes = differences(run.config, plain(point.experiment))
        if changes:
            raise UserError(
                f"{folder} holds another run ({'; '.join(changes[:3])}). "
                "Choose another --output"
            )
        return (folder / RESULT).exists()

    def tell(self, name: str, status: str, error: str = "") -> None:
        """Records what became of a point."""
        entry = {"values": self.points[name]["values"], "status": status}
        self.points[name] = {**entry, "error": error} if error else entry
        self.save()

    def save(self) -> None:
        """Writes `sweep.json`, whole or not at all."""
        told = {
            "bases": plain(self._bases),
            "geometric": self.geometric,
            "points": self.points,
        }
        self.writer().write_json(SWEEP, told)

    def writer(self) -> RunFolder:
        """Writes files into the folder, each whole or not at all."""
        with writable(self.path, _FIX):
            self.path.mkdir(parents=True, exist_ok=True)
        return RunFolder(self.path)

    def fields(self) -> list[str]:
        """Every field that some point changes, in the order they came."""
        return list(
            dict.fromkeys(f for told in self.points.values() for f in told["values"])
        )

    def runs(self) -> list[Run]:
        """The finished points."""
        return [
            read_run(self.path / name)
            for name, told in self.points.items()
            if told["status"] == "finished"
        ]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second sweep out of the folder.

        Raises:
            UserError: another process is at it.
        """
        with locked(self.path / ".lock", fix=_FIX):
            yield


def _in_any_order(values: Mapping[str, Any]) -> str:
    return json.dumps(plain(values), sort_keys=True)


def point_name(values: Mapping[str, Any]) -> str:
    """The folder of a point.

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
    exact = all(
        not isinstance(v, float) or float(text_of(v)) == v for v in values.values()
    )
    if safe == name and len(name) <= 150 and exact:
        return name
    # Names that were changed or cut could meet; the hash keeps them apart.
    digest = hashlib.sha256(json.dumps(plain(values)).encode()).hexdigest()[:8]
    return f"{safe[:140]}-{digest}"
