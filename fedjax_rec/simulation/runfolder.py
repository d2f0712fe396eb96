"""A run's folder: what was run, with what, what came out; readable at any moment."""

import contextlib
import dataclasses
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

CONFIG, VERSIONS = "config.json", "versions.json"
METRICS, RESULT, REPORT = "metrics.jsonl", "result.json", "report.md"
_LOCK = ".lock"


class RunFolderError(ValueError):
    """The folder cannot take this run, or holds none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its folder tells it.

    Attributes:
        path: the folder.
        config: the resolved configuration.
        versions: of everything that computed it.
        events: one dict a round or evaluation, in order.
        result: `None` where the run did not finish.
    """

    path: Path
    config: dict[str, Any]
    versions: dict[str, Any]
    events: list[dict[str, Any]]
    result: dict[str, Any] | None


class RunFolder:
    """Writes a run into a folder that exists; `open_run` makes and locks it."""

    def __init__(self, path: Path):
        self.path = path
        self._metrics: IO[str] | None = None

    def append(self, event: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`; it is on disk when this returns."""
        if self._metrics is None:
            self._metrics = (self.path / METRICS).open("a", encoding="utf-8")
        self._metrics.write(json.dumps(plain(event), allow_nan=False) + "\n")
        self._metrics.flush()

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
        # The suffix stays, since plotting libraries take the format from it.
        temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
        try:
            yield temporary
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes `metrics.jsonl`."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None


def check_folder(
    path: str | Path, config: Mapping[str, Any], overwrite: bool = False
) -> None:
    """Raises unless `path` can take a run of `config`; changes nothing on disk.

    A folder can if it is absent or empty, holds an unfinished run of the same
    configuration (which starts again), or, with `overwrite`, a finished one.

    Args:
        path: of the run.
        config: the resolved configuration, plain values.
        overwrite: whether a finished run of the same configuration is replaced.

    Raises:
        RunFolderError: it cannot, and why.
    """
    path = Path(path)
    if not path.exists():
        return
    if not path.is_dir():
        raise RunFolderError(f"{path} is a file; expected a folder for the run")
    if not (path / CONFIG).is_file():
        ours = (_LOCK, ".config.", ".versions.")  # killed before it had begun
        found = sorted(p.name for p in path.iterdir() if not p.name.startswith(ours))
        if found:
            raise RunFolderError(
                f"{path} holds {', '.join(found[:3])}{' ...' if found[3:] else ''} and "
                "no run; expected an empty folder. Choose another --output"
            )
        return
    changes = differences(_read_json(path / CONFIG), plain(config))
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise RunFolderError(
            f"{path} holds a run of another config:\n{lines}\nChoose another --output"
        )
    if (path / RESULT).exists() and not overwrite:
        raise RunFolderError(
            f"{path} holds a finished run of this very config. Pass --overwrite to run "
            "it again and replace its results, or choose another --output"
        )


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
        overwrite: whether a finished run of the same configuration is replaced.

    Yields:
        The folder.

    Raises:
        RunFolderError: the folder cannot take this run, or cannot be written.
    """
    path = Path(path)
    check_folder(path, config, overwrite)
    with _writable(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / _LOCK).open("wb")
    with lock:
        if not _take(lock):
            raise RunFolderError(
                f"{path} is being written by another process. Wait for it, or choose "
                "another --output"
            )
        # Again, now that nobody else can write between the look and the start.
        check_folder(path, config, overwrite)
        folder = RunFolder(path)
        with _writable(path):
            stale = (RESULT, REPORT, METRICS, *(p.name for p in path.glob("*.png")))
            for name in stale:
                (path / name).unlink(missing_ok=True)
            folder.write_json(VERSIONS, versions)
            folder.write_json(CONFIG, config)
        try:
            yield folder
        finally:
            folder.close()


def read_run(path: str | Path) -> Run:
    """Reads a run, finished or not.

    Raises:
        RunFolderError: the folder holds no run, or a broken one.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        what = "holds no config.json" if path.is_dir() else "is no folder"
        raise RunFolderError(
            f"{path} {what}; expected a run's folder, as `fedjax-rec train` writes it"
        )
    result = _read_json(path / RESULT) if (path / RESULT).exists() else None
    versions = path / VERSIONS
    return Run(
        path=path,
        config=_read_json(path / CONFIG),
        versions=_read_json(versions) if versions.exists() else {},
        events=list(_read_lines(path / METRICS)),
        result=result,
    )


def free_folder(parent: str | Path, name: str) -> Path:
    """`parent/name`, or with the first of `-2`, `-3`, ... that is not taken."""
    name = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "run"
    path, count = Path(parent) / name, 1
    while path.exists():
        count += 1
        path = Path(parent) / f"{name}-{count}"
    return path


def plain(value: Any) -> Any:
    """`value` as JSON has it; a dataclass is a dict that begins with its `type`.

    What JSON has no number for (NaN, infinities) becomes `None`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **plain(fields)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic | np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def differences(
    old: Any, new: Any, name: str = "", words: tuple[str, str] = ("there", "now")
) -> list[str]:
    """One line for each value in which two trees of plain values differ.

    Args:
        old: the first tree.
        new: the second.
        name: of the trees' root.
        words: what the two are called.

    >>> differences({"rounds": 5, "seed": 0}, {"rounds": 6, "seed": 0})
    ['rounds: 5 there, 6 now']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in dict.fromkeys([*old, *new]):
            inner = f"{name}.{key}" if name else key
            gone = "(absent)"
            lines += differences(old.get(key, gone), new.get(key, gone), inner, words)
        return lines
    return [] if old == new else [f"{name}: {old} {words[0]}, {new} {words[1]}"]


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read as JSON: {error}") from error


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
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
            raise RunFolderError(f"{path}, line {number}: {error}") from error


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror}). Choose another --output"
        ) from error


def _take(lock: IO[bytes]) -> bool:
    """Whether the lock was free; it is held until the file is closed."""
    try:
        import fcntl
    except ImportError:
        return True  # not on Windows
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
