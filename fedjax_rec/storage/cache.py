"""The cache on disk, and values in it, with arrays as memory maps."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from etils import epy

from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import publish, temporary

with epy.lazy_imports():
    import numpy as np

_LOG = logging.getLogger(__name__)
_REST = "rest.pickle"
_SMALL = 4096
"""Arrays of fewer bytes share the file of the other values."""


def cache_root(folder: str | Path | None = None) -> Path:
    """Returns `folder`, by default `$FEDJAX_REC_CACHE` or `~/.cache/fedjax_rec`."""
    root = Path(folder or os.environ.get("FEDJAX_REC_CACHE") or "~/.cache/fedjax_rec")
    return root.expanduser().absolute()


def keep(root: Path, key: str, make: Callable[[], Any], limit: int = 16 << 30) -> Any:
    """Returns the cached value of `key`, or calls `make` and caches its result.

    Args:
        root: Folder of the cache.
        key: Name that identifies the value.
        make: Computes the value if it is not cached.
        limit: Bytes beyond which the least recently used entries are removed.

    Returns:
        The value. Its arrays of 4 KiB or more are read-only memory maps. If the cache
        cannot be written or read, the result of `make` is returned unchanged.
    """
    cached = recall(root, key)
    if cached is not None:
        return cached
    value = make()
    try:
        with temporary(root) as folder:
            (folder / key).mkdir()
            with (folder / key / _REST).open("wb") as file:
                _Writer(file, folder / key).dump(value)
            publish(folder / key, root / key, replace=True)  # replaces a damaged entry
        _trim(root, key, limit)
    except (FileError, OSError) as error:
        _LOG.warning("%s cannot be kept in %s: %s", key, root, error)
        return value
    cached = recall(root, key)
    return value if cached is None else cached


def recall(root: Path, key: str) -> Any:
    """Returns the cached value of `key`, or `None` if it is absent or damaged."""
    folder = root / key
    try:
        os.utime(folder)
        with (folder / _REST).open("rb") as file:
            return _Reader(file, folder).load()
    except (OSError, EOFError, ValueError, pickle.UnpicklingError):
        return None


def _trim(root: Path, newest: str, limit: int) -> None:
    entries = sorted(root.glob(f"*/{_REST}"), key=lambda p: p.parent.stat().st_mtime)
    sizes = [sum(f.stat().st_size for f in p.parent.iterdir()) for p in entries]
    excess = sum(sizes) - limit
    for entry, size in zip(entries, sizes, strict=True):
        if excess > 0 and entry.parent.name != newest:
            shutil.rmtree(entry.parent, ignore_errors=True)
            excess -= size


class _Writer(pickle.Pickler):
    """Pickler that writes each large array to its own file."""

    def __init__(self, file: Any, folder: Path):
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._folder, self._names = folder, {}

    def persistent_id(self, obj: Any) -> str | None:
        if not isinstance(obj, np.ndarray) or obj.dtype.kind not in "biuf":
            return None
        if obj.nbytes < _SMALL:
            return None
        if id(obj) not in self._names:  # ids stay valid: the pickler keeps references
            name = f"{len(self._names)}.npy"
            np.save(self._folder / name, obj, allow_pickle=False)
            self._names[id(obj)] = name
        return self._names[id(obj)]


class _Reader(pickle.Unpickler):
    """Unpickler that maps these arrays."""

    def __init__(self, file: Any, folder: Path):
        super().__init__(file)
        self._folder, self._maps = folder, {}

    def persistent_load(self, pid: str) -> np.ndarray:
        if pid not in self._maps:
            path = self._folder / pid
            self._maps[pid] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._maps[pid]
