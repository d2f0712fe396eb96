"""A run's folder: configuration, versions, events, result; readable at any moment."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.runs.plain import differences, plain
from fedjax_rec.runs.writer import (
    METRICS,
    REPORT,
    RESULT,
    TIMINGS,
    USERS,
    RunFolder,
    read_lines,
)
from fedjax_rec.storage.errors import FileError, writable
from fedjax_rec.storage.files import PARTIAL, locked

CONFIG, VERSIONS = "config.json", "versions.json"
CHECKPOINTS, MODEL = "checkpoints", "model"
_LOCK = ".lock"
_FIX = "Choose another --output"
_FILES = (RESULT, REPORT, METRICS, TIMINGS, USERS, "wandb.json", "profile.json")
_FOLDERS = (CHECKPOINTS, MODEL, "tensorboard", "wandb", "profile")
_KINDS = {"round": "train", "evaluation": "evaluate"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as read from its folder.

    Attributes:
        path: the folder.
        config: the resolved configuration.
        versions: versions of the software and the machine.
        events: one dict per round or evaluation, in order.
        result: `None` if the run is not finished.
        seconds: seconds over all processes, see `total_seconds`.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    events: list[dict[str, Any]]
    result: dict[str, Any] | None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def part(self, *names: str) -> dict[str, Any]:
        """A dict inside the result, by its path of names; empty if absent."""
        value = self.result or {}
        for name in names:
            value = value.get(name) or {}
        return value


def check_folder(
    path: str | Path, config: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Raises unless `path` can take a run of `config`; changes no file.

    A folder can if it is absent or empty, holds an unfinished run of the same
    configuration without a checkpoint (which starts again), or, with `overwrite`, any
    run of the same configuration.

    Args:
        path: the run's folder.
        config: the resolved configuration, plain values.
        overwrite: whether a run of the same configuration is replaced.

    Raises:
        FileError: the folder cannot take the run.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise FileError(f"{path} is a file; expected a folder for the run")
    if not (path / CONFIG).is_file():
        # Files of a process that was killed before the run had begun do not count.
        names = (p.name for p in path.iterdir())
        others = sorted(n for n in names if not n.startswith((_LOCK, PARTIAL)))
        if others:
            raise FileError(
                f"{path} holds {', '.join(others[:3])}{' ...' if others[3:] else ''} "
                f"and no run; expected an empty folder. {_FIX}"
            )
        return
    problem = "holds a run of another config"
    check_same(path, problem, _read_json(path / CONFIG), plain(config), _FIX)
    if (path / RESULT).exists() and not overwrite:
        raise FileError(
            f"{path} holds a finished run of the same config. Pass --overwrite to run "
            "it again and replace its results, or choose another --output"
        )
    if has_checkpoint(path) and not overwrite:
        raise FileError(
            f"{path} holds an unfinished run of the same config. Continue it with\n"
            f"  fedjax-rec train --resume {path}\n"
            "or pass --overwrite to start it again"
        )


def check_same(path: Path, problem: str, old: Any, new: Any, fix: str) -> None:
    """Raises a FileError that lists the differences of two values, if there are any."""
    if changes := differences(old, new):
        lines = "\n".join(f"  {line}" for line in changes)
        raise FileError(f"{path} {problem}:\n{lines}\n{fix}")


def has_checkpoint(path: str | Path) -> bool:
    """Whether a run left a checkpoint, valid or not."""
    # Unfinished checkpoints have a suffix.
    return any(p.name.isdigit() for p in (Path(path) / CHECKPOINTS).glob("*"))


@contextlib.contextmanager
def open_run(
    path: str | Path,
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
    overwrite: bool = False,
) -> Iterator[RunFolder]:
    """A folder with `config.json` and `versions.json`, ready for events and a result.

    Without `result.json` a folder's run is not finished: that file is the first to be
    removed when a run starts again.

    Args:
        path: the run's folder; created if absent.
        config: the resolved configuration.
        versions: versions of the software and the machine.
        overwrite: whether a run of the same configuration is replaced.

    Yields:
        The folder.

    Raises:
        FileError: the folder cannot take this run, or cannot be written.
    """
    path = Path(path)
    check_folder(path, config, overwrite)
    with _locked_folder(path) as folder:
        # Again, now that no other process can write between the check and the start.
        check_folder(path, config, overwrite)
        with writable(path, _FIX):
            for name in (*_FILES, *(p.name for p in path.glob("*.png"))):
                (path / name).unlink(missing_ok=True)
            for name in _FOLDERS:
                if (path / name).exists():
                    shutil.rmtree(path / name)
            folder.write_json(VERSIONS, versions)
            folder.write_json(CONFIG, config)
        folder.start(0)
        yield folder


@contextlib.contextmanager
def continue_run(path: str | Path) -> Iterator[RunFolder]:
    """The unchanged folder of an unfinished run; `cut_back` it before adding to it.

    Args:
        path: the run's folder.

    Yields:
        The folder.

    Raises:
        FileError: the folder is in use, or cannot be written.
    """
    with _locked_folder(Path(path)) as folder:
        timings = folder.path / TIMINGS
        with writable(folder.path):
            if timings.exists():  # cut off a line that a killed process began
                os.truncate(timings, timings.read_bytes().rfind(b"\n") + 1)
        yield folder


@contextlib.contextmanager
def _locked_folder(path: Path) -> Iterator[RunFolder]:
    folder = contextlib.closing(RunFolder(path))
    with locked(path / _LOCK, fix=_FIX), folder as opened:
        yield opened


def read_run(path: str | Path) -> Run:
    """Reads a run, finished or not.

    Raises:
        FileError: the folder holds no run, or a broken one.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        problem = "holds no config.json" if path.is_dir() else "is no folder"
        raise FileError(
            f"{path} {problem}; expected a run's folder, written by `fedjax-rec train`"
        )
    versions, result = path / VERSIONS, path / RESULT
    return Run(
        path=path,
        config=_read_json(path / CONFIG),
        versions=_read_json(versions) if versions.exists() else {},
        events=list(read_lines(path / METRICS)),
        result=_read_json(result) if result.exists() else None,
        seconds=total_seconds(read_lines(path / TIMINGS)),
    )


def total_seconds(lines: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Seconds by kind over all processes of a run.

    Args:
        lines: the objects in `timings.jsonl`.

    Returns:
        `train`, `evaluate`, and each other event under its name; `total`, in which a
        process counts until the last line it wrote; `lives`, the number of processes.
        Empty without lines.

    >>> total_seconds([
    ...     {"event": "start"}, {"event": "round", "seconds": 2.0, "elapsed": 2.5},
    ...     {"event": "start"}, {"event": "round", "seconds": 1.0, "elapsed": 1.5}])
    {'total': 4.0, 'lives': 2, 'train': 3.0}
    """
    seconds: dict[str, float] = {}
    elapsed: list[float] = []
    for line in lines:
        if line["event"] == "start" or not elapsed:
            elapsed.append(0.0)
        if "seconds" in line:
            kind = _KINDS.get(line["event"], line["event"])
            seconds[kind] = seconds.get(kind, 0.0) + line["seconds"]
            elapsed[-1] = line["elapsed"]
    if not elapsed:
        return {}
    return {"total": sum(elapsed), "lives": len(elapsed), **seconds}


def new_folder(parent: str | Path, name: str) -> Path:
    """Creates `parent/name`, or the first of `name-2`, `name-3`, ... that is free.

    Processes that start at the same moment get folders of their own.

    Raises:
        FileError: the folder cannot be created.
    """
    name = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "run"
    path, count = Path(parent) / name, 1
    with writable(path, _FIX):
        while True:
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                count += 1
                path = Path(parent) / f"{name}-{count}"
            else:
                return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read as JSON: {error}", file=path) from error
