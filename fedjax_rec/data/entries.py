"""Entries of the cache on disk: each is there whole or not at all."""

import contextlib
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedjax_rec.data.errors import DataError

_LOG = logging.getLogger(__name__)
_TEMPORARY = ".preparing"


def cache_root(chosen: str | Path | None = None) -> Path:
    """`chosen`, else what `FEDJAX_REC_CACHE` says, else `~/.cache/fedjax_rec`."""
    root = Path(chosen or os.environ.get("FEDJAX_REC_CACHE") or "~/.cache/fedjax_rec")
    return root.expanduser().absolute()


@contextlib.contextmanager
def temporary(root: Path) -> Iterator[Path]:
    """A folder beside the entries, so that moving it is one rename; gone at the end.

    A process that is killed cannot clean up. So each holds a lock on a file beside its
    folder, which the system lets go with the process, and the next one to prepare
    removes the folders whose lock is free.
    """
    parent = root / _TEMPORARY
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _sweep(parent)
        handle, name = tempfile.mkstemp(dir=parent, suffix=".lock")
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})",
            file=root,
            fix="Pass another cache=, or set FEDJAX_REC_CACHE",
        ) from error
    folder = Path(name).with_suffix("")
    with os.fdopen(handle, "wb") as lock:
        _lock(lock)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


def _sweep(parent: Path) -> None:
    """Removes what killed processes left behind."""
    for folder in parent.iterdir():
        if not folder.is_dir():
            continue
        path = folder.with_name(folder.name + ".lock")
        try:
            with path.open("r+b") as lock:
                if _lock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
                    path.unlink(missing_ok=True)
        except OSError:
            continue  # being removed right now, or another account's


def _lock(file: Any) -> bool:
    """Whether the lock on `file` could be taken; held until the file is closed."""
    try:
        import fcntl
    except ImportError:
        return False  # not on Windows: then leftovers stay, which costs disk only
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def publish(prepared: Path, entry: Path) -> None:
    """Moves a finished folder to its place, unless another process was faster."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    try:
        prepared.rename(entry)
    except OSError:
        if not entry.exists():
            raise
        _LOG.info("%s was prepared by another process meanwhile", entry)
