"""Files and folders that other processes see complete or not at all."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from fedjax_rec.storage.errors import writable
from fedjax_rec.storage.locks import acquire

_LOG = logging.getLogger(__name__)
PARTIAL = ".partial-"
"""Prefix of unfinished files and folders."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a path to write, which replaces `target` if the block succeeds.

    The path keeps the suffix of `target`, from which plotting libraries infer the
    format.
    """
    # Unlike a file of `tempfile`, this one has the permissions of its folder's users.
    partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}{target.suffix}")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary(root: Path, fix: str = "") -> Iterator[Path]:
    """Yields a new folder inside `root`, which is removed at the end.

    A process that is killed cannot clean up. Each process therefore holds the lock of a
    file next to its folder, and the next call removes the folders that are not locked.

    Args:
        root: Created if absent.
        fix: Advice for the error message.

    Raises:
        FileError: `root` cannot be written.
    """
    with writable(root, fix):
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        handle, name = tempfile.mkstemp(dir=root, prefix=PARTIAL, suffix=".lock")
    folder = Path(name).with_suffix("")
    with os.fdopen(handle, "wb") as lock:
        acquire(lock)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            Path(name).unlink(missing_ok=True)


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob(f"{PARTIAL}*"):
        if not folder.is_dir():
            continue
        path = folder.with_name(f"{folder.name}.lock")
        # OSError: another process holds the lock, or has just removed the file.
        with contextlib.suppress(OSError), path.open("r+b") as lock:
            if acquire(lock):
                shutil.rmtree(folder, ignore_errors=True)
                path.unlink(missing_ok=True)


def publish(prepared: Path, entry: Path, *, replace: bool = False) -> None:
    """Moves a finished folder to `entry`, unless another process did so before.

    Args:
        prepared: A folder inside a `temporary` one.
        entry: The destination, on the same file system.
        replace: Whether an existing `entry` is replaced.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    if replace:
        with contextlib.suppress(FileNotFoundError):
            entry.rename(prepared.with_name("replaced"))
    try:
        prepared.rename(entry)
    except OSError:
        if not entry.exists():
            raise
        _LOG.info("%s was prepared by another process in the meantime", entry)


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Returns the hash of a file's content in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
