"""A run's folder: what was run, with what, what came out; readable at any moment."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.runs import timings
from fedjax_rec.runs.plain import differences, plain
from fedjax_rec.runs.timings import TIMINGS
from fedjax_rec.runs.writer import (
    METRICS,
    REPORT,
    RESULT,
    RunFolder,
    read_lines,
)
from fedjax_rec.storage.errors import FileError, writable
from fedjax_rec.storage.files import PARTIAL
from fedjax_rec.storage.locks import locked

CONFIG, VERSIONS = "config.json", "versions.json"
CHECKPOINTS = "checkpoints"
_LOCK = ".lock"
_FIX = "Choose another --output"
_FOLDERS = (CHECKPOINTS, "tensorboard", "wandb", "profile")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        config: the resolved configuration.
        versions: of everything that computed it.
        events: one dict a round or evaluation, in order.
        result: `None` where the run did not finish.
        seconds: over all lives of its process, see `timings.total`.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    events: list[dict[str, Any]]
    result: dict[str, Any] | None
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)


def check_folder(
    path: str | Path, config: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Raises unless `path` can take a run of `config`; changes nothing on disk.

    A folder can if it is absent or empty, holds an unfinished run of the same
    configuration that left no checkpoint (which starts again), or, with `overwrite`,
    any run of the same configuration.

    Args:
        path: of the run.
        config: the resolved configuration, plain values.
        overwrite: whether a run of the same configuration is replaced.

    Raises:
        FileError: it cannot, and why.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise FileError(f"{path} is a file; expected a folder for the run")
    if not (path / CONFIG).is_file():
        ours = (_LOCK, PARTIAL)  # killed before it had begun
        found = sorted(p.name for p in path.iterdir() if not p.name.startswith(ours))
        if found:
            raise FileError(
                f"{path} holds {', '.join(found[:3])}{' ...' if found[3:] else ''} and "
                "no run; expected an empty folder. Choose another --output"
            )
        return
    changes = differences(_read_json(path / CONFIG), plain(config))
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise FileError(
            f"{path} holds a run of another config:\n{lines}\nChoose another --output"
        )
    if (path / RESULT).exists() and not overwrite:
        raise FileError(
            f"{path} holds a finished run of this very config. Pass --overwrite to run "
            "it again and replace its results, or choose another --output"
        )
    if has_checkpoint(path) and not overwrite:
        raise FileError(
            f"{path} holds an unfinished run of this very config. Continue it with\n"
            f"  fedjax-rec train --resume {path}\n"
            "or pass --overwrite to start it again"
        )


def has_checkpoint(path: str | Path) -> bool:
    """Whether a run left a checkpoint, whole or not."""
    # What is not yet committed has a suffix.
    return any(p.name.isdigit() for p in (Path(path) / CHECKPOINTS).glob("*"))


@contextlib.contextmanager
def open_run(
    path: str | Path,
    config: Mapping[str, Any],
    versions: Mapping[str, Any],
    overwrite: bool = False,
) -> Iterator[RunFolder]:
    """A folder with `config.json` and `versions.json`, ready for events and a result.

    Without `result.json` a folder's run is not finished: that file is the first to go
    when a run starts again.

    Args:
        path: of the run; made where absent.
        config: the resolved configuration.
        versions: of everything that computes it.
        overwrite: whether a run of the same configuration is replaced.

    Yields:
        The folder.

    Raises:
        FileError: the folder cannot take this run, or cannot be written.
    """
    path = Path(path)
    check_folder(path, config, overwrite)
    with locked(path / _LOCK, fix=_FIX):
        # Again, now that nobody else can write between the look and the start.
        check_folder(path, config, overwrite)
        folder = RunFolder(path)
        with writable(path, _FIX):
            stale = (RESULT, REPORT, METRICS, TIMINGS, "wandb.json", "profile.json")
            for name in (*stale, *(p.name for p in path.glob("*.png"))):
                (path / name).unlink(missing_ok=True)
            for name in _FOLDERS:
                if (path / name).exists():
                    shutil.rmtree(path / name)
            folder.write_json(VERSIONS, versions)
            folder.write_json(CONFIG, config)
        try:
            folder.start(0)
            yield folder
        finally:
            folder.close()


@contextlib.contextmanager
def continue_run(path: str | Path) -> Iterator[RunFolder]:
    """The folder of an unfinished run, as it was left; `cut_back` it, then go on.

    Args:
        path: of the run.

    Yields:
        The folder.

    Raises:
        FileError: the folder is in use, or cannot be written.
    """
    path = Path(path)
    with locked(path / _LOCK, fix=_FIX):
        folder = RunFolder(path)
        with writable(path):
            _mend(path / TIMINGS)
        try:
            yield folder
        finally:
            folder.close()


def read_run(path: str | Path) -> Run:
    """Reads a run, finished or not.

    Raises:
        FileError: the folder holds no run, or a broken one.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        what = "holds no config.json" if path.is_dir() else "is no folder"
        raise FileError(
            f"{path} {what}; expected a run's folder, as `fedjax-rec train` writes it"
        )
    result = _read_json(path / RESULT) if (path / RESULT).exists() else None
    versions = path / VERSIONS
    return Run(
        path=path,
        config=_read_json(path / CONFIG),
        versions=_read_json(versions) if versions.exists() else {},
        events=list(read_lines(path / METRICS)),
        result=result,
        seconds=timings.total(read_lines(path / TIMINGS)),
    )


def free_folder(parent: str | Path, name: str) -> Path:
    """`parent/name`, or with the first of `-2`, `-3`, ... that is not taken."""
    name = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "run"
    path, count = Path(parent) / name, 1
    while path.exists():
        count += 1
        path = Path(parent) / f"{name}-{count}"
    return path


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read as JSON: {error}", file=path) from error


def _mend(path: Path) -> None:
    """Cuts a last line off that a killed process did not finish."""
    if path.exists():
        whole = path.read_bytes().rfind(b"\n") + 1
        os.truncate(path, whole)
