"""Memory maps of new files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from etils import epy

from fedjax_rec.storage.errors import writable

with epy.lazy_imports():
    import numpy as np

_PIECE = 1 << 24
"""Bytes written at once where the system cannot reserve blocks."""


def new_map(path: Path, dtype: Any, shape: tuple[int, ...], fix: str = "") -> Any:
    """Creates a `.npy` file, zeros at first, and maps it for reading and writing.

    All of its blocks are reserved. NumPy would create a sparse file, and the first
    write to a page that finds no free block ends the process with SIGBUS.

    Args:
        path: the file.
        dtype: type of the values.
        shape: shape of the array.
        fix: advice for the error message.

    Returns:
        A `numpy.memmap`.

    Raises:
        DiskFull: there is no room for the array; the file is removed.
        FileError: the file cannot be written.
    """
    with writable(path, fix):
        try:
            mapped = np.lib.format.open_memmap(path, "w+", dtype, shape)
            _reserve(path, mapped.offset)
        except OSError:
            path.unlink(missing_ok=True)
            raise
    return mapped


def _reserve(path: Path, header: int) -> None:
    """Gives a new file of zeros its blocks."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
            return
        file.seek(header)
        for first in range(header, size, _PIECE):
            file.write(bytes(min(_PIECE, size - first)))
