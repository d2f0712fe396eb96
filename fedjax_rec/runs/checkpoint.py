"""Checkpoints of a run's state; the only module that imports Orbax.

A checkpoint is a folder `checkpoints/ROUND`. Orbax writes it in the background under a
temporary name and renames it when complete, so that a killed process leaves the
previous ones intact. Orbax does not notice a changed byte in an array, so each folder
is sealed with the hashes of its files before it is renamed.
"""

import contextlib
import itertools
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from fedjax_rec.core.arrays import Tree
from fedjax_rec.runs.seal import Damaged, check_seal, write_seal
from fedjax_rec.simulation.simulation import Snapshot
from fedjax_rec.storage.errors import FileError, writable

_STATE, _PROGRESS = "state", "progress"
_UNFINISHED = ".orbax-checkpoint-tmp"
_SYSTEM_ERROR = re.compile(
    "No space left on device|File too large|Permission denied|Disk quota exceeded|"
    "Read-only file system"
)


SET_ASIDE = "set-aside"
"""Folder of checkpoints that a resumed run did not go on from."""


class Restored(NamedTuple):
    """Contents of a checkpoint.

    Attributes:
        snapshot: state of the simulation; `None` without a checkpoint to go on from.
        position: size of `metrics.jsonl` in bytes at the snapshot.
        skipped: reasons by rounds of newer checkpoints that were skipped.
    """

    snapshot: Snapshot | None
    position: int
    skipped: dict[int, str]


class RestoreError(FileError):
    """A run cannot go on from its newest checkpoint."""


class Checkpoints:
    """The checkpoints of one run: the last few, and the selected round's.

    Args:
        path: folder of the checkpoints; created if absent.
        config: hash of the configuration they belong to.
        keep: number of last checkpoints to keep; at least 1.

    Raises:
        FileError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, config: str, keep: int = 2):
        self._path, self._config = Path(path).absolute(), config
        self._retention = _LastAndSelected(keep)
        self._written = 0
        # Orbax also raises the failures that it logs, and they are reported once.
        logging.getLogger("absl").addFilter(_not_orbax)
        with writable(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
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
        """Rounds with a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, snapshot: Snapshot, position: int) -> None:
        """Copies `snapshot`, and writes the copy in the background.

        Args:
            snapshot: state of a simulation at rest.
            position: current size of `metrics.jsonl` in bytes.

        Raises:
            FileError: this checkpoint, or the one before it, could not be written.
        """
        self.wait()
        done = snapshot.progress["round"]
        if done in self._manager.all_steps():
            return
        _remove_unfinished(self._path)
        self._written, self._retention.selected = done, snapshot.progress["selected"]
        progress = {
            **snapshot.progress,
            "position": position,
            "config": self._config,
            "arrays": _describe(snapshot.arrays),
        }
        state = ocp.args.StandardSave(snapshot.arrays)
        items = {_STATE: state, _PROGRESS: ocp.args.JsonSave(progress)}
        with self._writing():
            self._manager.save(done, args=ocp.args.Composite(**items))

    def wait(self) -> None:
        """Returns when everything saved is on disk.

        Raises:
            FileError: the last checkpoint could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and releases the threads.

        Raises:
            FileError: the last checkpoint could not be written.
        """
        with self._writing():
            self._manager.close()

    def restore(
        self,
        like: Tree,
        unfit: Callable[[dict[str, Any]], str] = lambda progress: "",
        skip_damaged: bool = False,
    ) -> Restored:
        """Reads the newest checkpoint to go on from; changes nothing on disk.

        Args:
            like: `Snapshot.arrays` of the simulation that will take it.
            unfit: `(progress) -> reason` why a run cannot go on from a checkpoint, or
                an empty string.
            skip_damaged: go on from an older checkpoint, or from the start, if files of
                newer ones have changed.

        Raises:
            RestoreError: the newest is damaged and `skip_damaged` is false, or one
                belongs to another config or holds other arrays than `like`.
            OSError: a checkpoint cannot be read, which does not prove that it is
                damaged; so do other errors, such as those of a full device.
        """
        skipped = {}
        for done in reversed(self.rounds):
            try:
                snapshot, position = self._read(done, like, unfit)
                return Restored(snapshot, position, skipped)
            except Damaged as error:
                if not skip_damaged:
                    raise RestoreError(
                        f"the checkpoint of round {done} in {self._path} is damaged: "
                        f"{error}. Restore its files, or pass --skip-damaged to go on "
                        "from the one before; damaged ones are kept in another folder"
                    ) from error
                skipped[done] = f"it is damaged: {error}"
            except _Unfit as error:
                skipped[done] = str(error)
        return Restored(None, 0, skipped)

    def set_aside(self, rounds: Iterable[int]) -> None:
        """Moves checkpoints to the folder `set-aside`, as their rounds come again.

        Orbax writes no round twice. Of several processes the first one moves.
        """
        if jax.process_index() == 0:
            for done in rounds:
                place = self._path / SET_ASIDE
                place.mkdir(exist_ok=True)
                names = (place / f"{done}{suffix}" for suffix in _suffixes())
                free = next(name for name in names if not name.exists())
                (self._path / str(done)).rename(free)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints set aside")
        self._manager.reload()

    def _read(
        self, done: int, like: Tree, unfit: Callable[[dict[str, Any]], str]
    ) -> tuple[Snapshot, int]:
        check_seal(self._path / str(done))
        progress = self._item(done, _PROGRESS, ocp.args.JsonRestore())
        if progress["config"] != self._config:
            raise RestoreError(
                f"the checkpoint of round {done} in {self._path} belongs to another "
                "config"
            )
        if reason := unfit(progress):
            raise _Unfit(reason)
        self._check_arrays(done, progress, like)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        arrays = self._item(done, _STATE, ocp.args.StandardRestore(abstract))
        names = ("round", "best", "selected", "metrics")
        snapshot = Snapshot(arrays, {name: progress[name] for name in names})
        return snapshot, progress["position"]

    def _check_arrays(self, done: int, progress: dict[str, Any], like: Tree) -> None:
        old, new = (
            {line.split(" ")[0]: line for line in lines}
            for lines in (progress["arrays"], _describe(like))
        )
        lines = [
            f"  {old.get(path, '(absent)')} there, {new.get(path, '(absent)')} now"
            for path in dict.fromkeys([*old, *new])
            if old.get(path) != new.get(path)
        ]
        if lines:
            raise RestoreError(
                f"the checkpoint of round {done} in {self._path} holds other arrays "
                "than this experiment:\n" + "\n".join(lines[:9])
            )

    def _item(self, done: int, item: str, args: Any) -> Any:
        args = ocp.args.Composite(**{item: args})
        return self._manager.restore(done, args=args)[item]

    def _seal(self) -> None:
        """Seals a checkpoint; Orbax calls it before the folder is renamed."""
        if jax.process_index() == 0:
            write_seal(self._path / f"{self._written}{_UNFINISHED}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Converts errors of the block into a `FileError`."""
        try:
            yield
        except Exception as error:
            _remove_unfinished(self._path)
            raise FileError(
                f"the checkpoint of round {self._written} could not be written to "
                f"{self._path}: {_reason(error)}"
            ) from error


class _LastAndSelected:
    """Orbax's `PreservationPolicy`: the last `keep`, and the selected round's."""

    def __init__(self, keep: int):
        self.keep, self.selected = keep, 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list:
        last = {info.step for info in checkpoints[-self.keep :]}
        return [info.step in last or info.step == self.selected for info in checkpoints]


class _Unfit(ValueError):
    """A valid checkpoint that the run cannot go on from."""


def _suffixes() -> Iterator[str]:
    """Nothing, `.1`, `.2` and so on."""
    return ("" if i == 0 else f".{i}" for i in itertools.count())


def _describe(tree: Tree) -> list[str]:
    """`path dtype[shape]` of every leaf."""
    return [
        f"{jax.tree_util.keystr(path)} {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]


def _remove_unfinished(path: Path) -> None:
    """Removes the folders of killed or failed saves."""
    for folder in path.glob(f"*{_UNFINISHED}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _reason(error: BaseException) -> str:
    """The system's message, which TensorStore puts into a longer one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    message = _SYSTEM_ERROR.search(str(error))
    return message[0] if message else _first_line(error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0] or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}..."


def _not_orbax(record: logging.LogRecord) -> bool:
    return "/orbax/" not in record.pathname.replace("\\", "/")
