"""Checkpoints: a run's state on disk; the only module that imports Orbax.

A checkpoint is a folder `checkpoints/ROUND`. Orbax writes it in the background under a
temporary name and renames it when all is there, so that a kill leaves the ones before
it as they were. Orbax does not notice a changed byte in an array, so the hashes of all
files go into the folder as well, as its seal, before it is renamed.
"""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from fedjax_rec.core.arrays import Tree
from fedjax_rec.simulation.simulation import Snapshot
from fedjax_rec.storage.errors import FileError, writable
from fedjax_rec.storage.files import digest

_STATE, _PROGRESS, _SEAL = "state", "progress", "seal.json"
_UNFINISHED = ".orbax-checkpoint-tmp"
_UNSEALED = (_SEAL, "_CHECKPOINT_METADATA")  # Orbax's own notes change to the last


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
        snapshot: of the simulation.
        position: bytes of `metrics.jsonl` when it was taken.
    """

    snapshot: Snapshot
    position: int


class Checkpoints:
    """The checkpoints of one run: the last few, and the selected round's.

    Args:
        path: folder for them; made where absent.
        config: hash of the configuration they belong to.
        keep: how many of the last are kept; at least 1.
        tell: takes sentences on checkpoints that are passed over.

    Raises:
        FileError: the folder cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        config: str,
        keep: int = 2,
        tell: Callable[[str], None] = lambda text: None,
    ):
        self._path, self._config, self._tell = Path(path).absolute(), config, tell
        self._retention = _LastAndSelected(keep)
        self._written = 0
        _silence_orbax()
        with writable(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            _remove_unfinished(self._path)
            self._manager = ocp.CheckpointManager(
                self._path,
                options=ocp.CheckpointManagerOptions(
                    preservation_policy=self._retention,
                    lightweight_initialize=True,
                    async_options=ocp.options.AsyncOptions(
                        post_finalization_callback=self._seal
                    ),
                ),
            )

    @property
    def rounds(self) -> list[int]:
        """The rounds that there are checkpoints of, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, snapshot: Snapshot, position: int) -> None:
        """Takes a copy of `snapshot`, and writes it while the caller goes on.

        Args:
            snapshot: of a simulation at rest.
            position: bytes of `metrics.jsonl` now.

        Raises:
            FileError: this one, or the one before it, could not be written.
        """
        self.wait()
        done = snapshot.progress["round"]
        if done in self._manager.all_steps():
            return
        self._written, self._retention.selected = done, snapshot.progress["selected"]
        progress = {
            **snapshot.progress,
            "position": position,
            "config": self._config,
            "arrays": _describe(snapshot.arrays),
        }
        args = ocp.args.Composite(
            **{
                _STATE: ocp.args.StandardSave(snapshot.arrays),
                _PROGRESS: ocp.args.JsonSave(progress),
            }
        )
        try:
            self._manager.save(done, args=args)
        except Exception as error:
            raise self._unwritten(error) from error

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
            FileError: the last one could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritten(error) from error

    def close(self) -> None:
        """Waits, and gives the threads back.

        Raises:
            FileError: the last one could not be written.
        """
        try:
            self._manager.close()
        except Exception as error:
            raise self._unwritten(error) from error

    def restore(
        self, like: Tree, fits: Callable[[dict[str, Any]], str] = lambda progress: ""
    ) -> Restored | None:
        """The newest checkpoint that is whole and fits; newer ones are removed.

        Args:
            like: `Snapshot.arrays` of the simulation that will take it.
            fits: why a run cannot go on from a checkpoint with this `progress`; empty
                where it can.

        Returns:
            What it holds, or `None` where there is none.

        Raises:
            FileError: one is whole and holds other arrays than `like`.
        """
        found, passed = None, []
        for done in reversed(self.rounds):
            reason, progress = self._read_progress(done)
            reason = reason or fits(progress)
            if not reason:
                self._check_arrays(done, progress, like)
                try:
                    found = self._read_arrays(done, progress, like)
                except Exception as error:
                    reason = _first_line(error)
            if found is not None:
                break
            passed.append(done)
            self._tell(f"the checkpoint of round {done} is passed over: {reason}")
        # Their rounds come again, and Orbax writes no round twice.
        for done in passed:
            shutil.rmtree(self._path / str(done), ignore_errors=True)
        self._manager.reload()
        return found

    def _read_progress(self, done: int) -> tuple[str, dict[str, Any]]:
        """Why a checkpoint cannot be read, or an empty string and its `progress`."""
        folder = self._path / str(done)
        broken = _broken_seal(folder)
        if broken:
            return broken, {}
        try:
            args = ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()})
            progress = self._manager.restore(done, args=args)[_PROGRESS]
        except Exception as error:
            return _first_line(error), {}
        if progress["config"] != self._config:
            return "it belongs to another config", {}
        return "", progress

    def _check_arrays(self, done: int, progress: dict[str, Any], like: Tree) -> None:
        there, here = progress["arrays"], _describe(like)
        lines = [f"  {a} there, {b} now" for a, b in _pairs(there, here) if a != b]
        if lines:
            raise FileError(
                f"the checkpoint of round {done} in {self._path} holds other arrays "
                "than this experiment:\n" + "\n".join(lines[:9])
            )

    def _read_arrays(self, done: int, progress: dict[str, Any], like: Tree) -> Restored:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        args = ocp.args.Composite(**{_STATE: ocp.args.StandardRestore(abstract)})
        arrays = self._manager.restore(done, args=args)[_STATE]
        names = ("round", "best", "selected", "metrics")
        snapshot = Snapshot(arrays, {name: progress[name] for name in names})
        return Restored(snapshot, progress["position"])

    def _seal(self) -> None:
        """Notes the hashes of a checkpoint's files; Orbax calls it, then renames."""
        if jax.process_index() > 0:
            return
        folder = self._path / f"{self._written}{_UNFINISHED}"
        seal = json.dumps(_hashes(folder), indent=1)
        (folder / _SEAL).write_text(seal, encoding="utf-8")

    def _unwritten(self, error: Exception) -> FileError:
        _remove_unfinished(self._path)
        return FileError(
            f"the checkpoint of round {self._written} could not be written to "
            f"{self._path}: {_reason(error)}"
        )


class _LastAndSelected:
    """Orbax's `PreservationPolicy`: the last `keep`, and the selected round's."""

    def __init__(self, keep: int):
        self.keep, self.selected = keep, 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list:
        del context
        last = {info.step for info in checkpoints[-self.keep :]}
        return [info.step in last or info.step == self.selected for info in checkpoints]


def _describe(tree: Tree) -> list[str]:
    """`path dtype[shape]` of every leaf."""
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _pairs(there: list[str], here: list[str]) -> list[tuple[str, str]]:
    """Descriptions of the leaves of two trees, side by side by path."""
    old, new = ({line.split(" ")[0]: line for line in side} for side in (there, here))
    gone = "(absent)"
    return [(old.get(k, gone), new.get(k, gone)) for k in dict.fromkeys([*old, *new])]


def _hashes(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in _UNSEALED:
            found[path.relative_to(folder).as_posix()] = digest(path)
    return found


def _broken_seal(folder: Path) -> str:
    """What differs from the seal; empty where nothing does.

    A process killed while it removes an old checkpoint leaves a part of it.
    """
    try:
        if not (folder / _SEAL).exists():
            return "it is not whole"
        seal = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
        hashes = _hashes(folder)
    except (OSError, ValueError) as error:
        return _first_line(error)
    for name, sealed in seal.items():
        if name not in hashes:
            return f"its file {name} is gone"
        if hashes[name] != sealed:
            return f"its file {name} has changed since it was written"
    return ""


def _remove_unfinished(path: Path) -> None:
    """Removes what a killed or failed save left behind."""
    for left in path.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """The operating system's words, which TensorStore wraps in many of its own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    for known in ("No space left on device", "File too large", "Permission denied",
                  "Disk quota exceeded", "Read-only file system"):  # fmt: skip
        if known in text:
            return known
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def _silence_orbax() -> None:
    """What Orbax logs of a failure is raised as well, and told by us."""
    logger = logging.getLogger("absl")
    if _not_orbax not in logger.filters:
        logger.addFilter(_not_orbax)


def _not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname.replace("\\", "/")
