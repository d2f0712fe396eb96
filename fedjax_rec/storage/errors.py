"""Errors that the command line shows without a traceback."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path


class UserError(ValueError):
    """An error that the user can correct; shown without a traceback."""


class FileError(UserError):
    """A file, folder or option is not usable.

    The message reads `FILE, line N: found X; expected Y. Fix.`, with the parts that
    apply.

    Args:
        message: The problem. Without the other arguments it is the complete message.
        file: Name of the file, including the archive that contains it.
        line: Line number in the file, from 1.
        expected: The content or value that was expected.
        fix: A sentence that says how to correct the problem.
    """

    def __init__(
        self,
        message: str,
        *,
        file: object = None,
        line: int | None = None,
        expected: str = "",
        fix: str = "",
    ):
        if file is not None:
            position = f"{file}" if line is None else f"{file}, line {line}"
            message = f"{position}: {'found ' if expected else ''}{message}"
        if expected:
            message += f"; expected {expected}"
        if fix:
            message += f". {fix}"
        super().__init__(message)
        self.file = None if file is None else str(file)
        self.line = line


class Unreachable(FileError):
    """A server or package registry does not respond or lacks the requested file."""


class DiskFull(FileError):
    """A disk, quota or file-size limit leaves no room, so later writes fail too."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def writable(path: Path, fix: str = "") -> Iterator[None]:
    """Converts an `OSError` of the block into a `FileError` about `path`.

    Raises:
        DiskFull: there is no room.
        FileError: any other `OSError`.
    """
    try:
        yield
    except OSError as error:
        kind = DiskFull if error.errno in _FULL else FileError
        raise kind(
            f"cannot be written ({error.strerror or error})", file=path, fix=fix
        ) from error
