"""Values kept in the cache, their arrays as memory maps of which one reads parts."""

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.data.entries import publish, temporary
from fedjax_rec.data.errors import DataError

_LOG = logging.getLogger(__name__)
_REST = "rest.pickle"
_SMALL = 4096
"""Bytes below which an array is not worth a file of its own."""


def keep(root: Path, key: str, make: Callable[[], Any], limit: int = 16 << 30) -> Any:
    """What `make` returns, from the cache where it was kept before.

    Args:
        root: the cache's folder.
        key: names the value: one for all that decides it.
        make: called where nothing is kept under `key`.
        limit: bytes; beyond them the entries longest unused are removed.

    Returns:
        The value, its arrays of 4 KiB or more read-only memory maps. Where the cache
        cannot be written or read, what `make` returned.
    """
    found = recall(root, key)
    if found is not None:
        return found
    value = make()
    try:
        with temporary(root) as folder:
            _write(value, folder / key)
            shutil.rmtree(root / key, ignore_errors=True)  # of use to nobody
            publish(folder / key, root / key)
        _trim(root, key, limit)
    except (DataError, OSError) as error:
        _LOG.warning("%s cannot be kept in %s: %s", key, root, error)
        return value
    return value if (found := recall(root, key)) is None else found


def recall(root: Path, key: str) -> Any:
    """What is kept under `key`, or `None`."""
    folder = root / key
    try:
        os.utime(folder)
        with (folder / _REST).open("rb") as file:
            return _Reader(file, folder).load()
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None  # never kept, damaged, or removed by another process right now


def _write(value: Any, folder: Path) -> None:
    folder.mkdir()
    with (folder / _REST).open("wb") as file:
        _Writer(file, folder).dump(value)


def _trim(root: Path, newest: str, limit: int) -> None:
    entries = sorted(root.glob(f"*/{_REST}"), key=lambda p: p.parent.stat().st_mtime)
    sizes = [sum(f.stat().st_size for f in p.parent.iterdir()) for p in entries]
    excess = sum(sizes) - limit
    for entry, size in zip(entries, sizes, strict=True):
        if excess > 0 and entry.parent.name != newest:
            shutil.rmtree(entry.parent, ignore_errors=True)
            excess -= size


class _Writer(pickle.Pickler):
    """Writes large arrays to files of their own."""

    def __init__(self, file: Any, folder: Path):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._folder, self._names = folder, {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, np.ndarray) or obj.dtype.kind not in "biuf":
            return None
        if obj.nbytes < _SMALL:
            return None
        if id(obj) not in self._names:  # the pickler keeps what it wrote alive
            name = f"{len(self._names)}.npy"
            np.save(self._folder / name, obj, allow_pickle=False)
            self._names[id(obj)] = name
        return self._names[id(obj)]


class _Reader(pickle.Unpickler):
    """Maps them."""

    def __init__(self, file: Any, folder: Path):
        super().__init__(file)
        self._folder, self._maps = folder, {}

    def persistent_load(self, pid: str) -> np.ndarray:
        if pid not in self._maps:
            path = self._folder / pid
            self._maps[pid] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._maps[pid]
