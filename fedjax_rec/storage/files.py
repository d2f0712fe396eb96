"""Files and folders that other processes see complete or not at all, and locks."""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fedjax_rec.storage.errors import FileError, writable

_LOG = logging.getLogger(__name__)
PARTIAL = ".partial-"
"""Prefix of unfinished files and folders."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yields a path to write, which replaces `target` if the block succeeds.

    The path keeps the suffix of `target`, from which plotting libraries infer the
    format. The new content survives a power failure once the block has ended.
    """
    # Unlike a file of `tempfile`, this one has the permissions of its folder's users.
    partial = target.with_name(f"{PARTIAL}{uuid.uuid4().hex}{target.suffix}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, target)
        with contextlib.suppress(OSError):  # not every system syncs folders
            _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def temporary(root: Path, fix: str = "") -> Iterator[Path]:
    """Yields a new folder inside `root`, which is removed at the end.

    A process that is killed cannot clean up. Each process therefore holds the lock of a
    file next to its folder, and the next call on the same host removes the folders that
    are not locked.

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
        lock.write(_host())
        lock.flush()
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
            # Some network file systems keep locks within a host.
            if acquire(lock) and lock.read() in (b"", _host()):
                shutil.rmtree(folder, ignore_errors=True)
                path.unlink(missing_ok=True)


def _host() -> bytes:
    return platform.node().encode()


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


def acquire(file: IO[bytes], *, wait: bool = False) -> bool:
    """Acquires the exclusive lock on an open file, held until the file is closed.

    Args:
        file: A file open for writing.
        wait: Whether to wait while another process holds the lock.

    Returns:
        Whether the lock is held now. False, with a warning, if there are no locks: on
        Windows, and on network file systems without `flock`.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
    """
    try:
        import fcntl
    except ImportError:
        _warn_of_no_locks("Windows has none")
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:  # ENOSYS, ENOTSUP, ENOLCK, ...
        _warn_of_no_locks(error.strerror or str(error))
        return False
    return True


@functools.cache  # once in a process
def _warn_of_no_locks(reason: str) -> None:
    _LOG.warning(
        "files cannot be locked (%s), so two processes that write one folder at the "
        "same time are not kept apart",
        reason,
    )


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False, fix: str = "") -> Iterator[bool]:
    """Holds the lock of the file `path`, created if absent, while the block runs.

    Args:
        path: The lock file.
        wait: Whether to wait while another process holds the lock.
        fix: Advice for the error message if the file cannot be written.

    Yields:
        Whether the lock is held. False on systems without locks, see `acquire`.

    Raises:
        FileError: Another process holds the lock and `wait` is false, or the file
            cannot be written.
    """
    folder = path.parent
    with writable(folder, fix):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        try:
            held = acquire(file)
        except BlockingIOError:
            if not wait:
                advice = "Wait for it, or choose another folder"
                message = "is being written by another process"
                raise FileError(message, file=folder, fix=advice) from None
            _LOG.info("%s: waiting for another process", folder)
            held = acquire(file, wait=True)
        yield held
