"""Exclusive locks between processes, which the system releases when a process ends."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fedjax_rec.storage.errors import FileError, writable

_LOG = logging.getLogger(__name__)


def acquire(file: IO[bytes], *, wait: bool = False) -> bool:
    """Acquires the exclusive lock on an open file, held until the file is closed.

    Args:
        file: A file open for writing.
        wait: Whether to wait while another process holds the lock.

    Returns:
        Whether the lock is held now. False if there are no locks: on Windows, and on
        network file systems without `flock`.

    Raises:
        BlockingIOError: Another process holds the lock, and `wait` is false.
    """
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:  # ENOSYS, ENOTSUP, ENOLCK, ...
        return False
    return True


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
