"""Arrays of vectors on disk, in shards that are verified whenever they are read."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.storage.errors import writable
from fedjax_rec.storage.files import PARTIAL, digest, locked, replacing

_LOG = logging.getLogger(__name__)
_FORMAT = 1  # version of the files; other versions have other folders
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """Contents of a folder, which is named by their hash.

    Attributes:
        about: everything that determines the values.
        width: `D`.
        dtype: type of the values, such as `bfloat16`.
        bounds: first text of each shard, and the one after its last.
        rows: number of rows of each shard.
    """

    about: dict[str, Any]
    width: int
    dtype: np.dtype
    bounds: list[tuple[int, int]]
    rows: list[int]

    @property
    def header(self) -> dict[str, Any]:
        """First part of the manifest; the folder's name is its hash."""
        return {
            "form": _FORMAT,
            **self.about,
            "width": self.width,
            "dtype": self.dtype.name,
            "shards": len(self.rows),
        }

    @property
    def key(self) -> str:
        text = json.dumps(self.header, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @property
    def stored(self) -> np.dtype:
        """Type in NumPy's files, which have no bfloat16 and store its bits."""
        return np.dtype(np.uint16) if self.dtype.name == "bfloat16" else self.dtype


def load_or_compute(
    contents: Contents,
    root: Path | None,
    compute: Callable[[list[int]], Iterator[np.ndarray]],
) -> list[np.ndarray]:
    """Loads the shards of `contents`; computes and stores those missing or damaged.

    If several processes need the same shards, one computes and the others wait.

    Args:
        contents: identity and shape of the shards.
        root: parent of all such folders; without one, all shards are computed and none
            is stored.
        compute: maps the numbers of shards to their arrays `[rows, D]`, in order.

    Returns:
        An array `[rows, D]` a shard; arrays on disk are memory maps.

    Raises:
        FileError: a shard is missing and `root` cannot be written.
    """
    numbers = range(len(contents.rows))
    if root is None:
        return list(compute(list(numbers)))
    folder = root / contents.key
    if _missing(folder, contents, _digests(folder, contents)):
        fix = "Pass another folder, or none to disable the cache"
        lock = folder / ".lock"
        with writable(root, fix), locked(lock, wait=True, fix=fix) as held:
            if held:  # so unfinished files are of processes that were killed
                for partial in folder.glob(f"{PARTIAL}*"):
                    partial.unlink(missing_ok=True)
            digests = _digests(folder, contents)  # perhaps new after the wait
            if missing := _missing(folder, contents, digests):
                _build(folder, contents, digests, missing, compute)
    return [_opened(folder, contents, shard) for shard in numbers]


def _build(
    folder: Path,
    contents: Contents,
    digests: dict[str, str],
    missing: list[int],
    compute: Callable[[list[int]], Iterator[np.ndarray]],
) -> None:
    for shard in missing:
        if digests.pop(_name(shard), None):
            _LOG.warning("%s is damaged and computed again", folder / _name(shard))
    for shard, array in zip(missing, compute(missing), strict=True):
        with replacing(folder / _name(shard)) as partial:
            np.save(partial, np.ascontiguousarray(array).view(contents.stored))
            digests[_name(shard)] = digest(partial)
        # After every shard, so that a killed run leaves its completed ones.
        with replacing(folder / _MANIFEST) as partial:
            manifest = {**contents.header, "sha256": dict(sorted(digests.items()))}
            partial.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def _digests(folder: Path, contents: Contents) -> dict[str, str]:
    """SHA-256 of each shard by the manifest; empty if that is absent or unusable."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        _LOG.warning("%s cannot be read", folder / _MANIFEST)
        return {}
    digests = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if manifest != contents.header or not isinstance(digests, dict):
        _LOG.warning("%s describes other contents", folder / _MANIFEST)
        return {}
    return digests


def _missing(folder: Path, contents: Contents, digests: dict[str, str]) -> list[int]:
    """Shards that are absent or differ from the manifest."""

    def intact(shard: int) -> bool:
        name = _name(shard)
        try:
            if digest(folder / name) != digests.get(name):
                return False
            array = _opened(folder, contents, shard)
        except (OSError, ValueError):
            return False
        shape = (contents.rows[shard], contents.width)
        return array.shape == shape and array.dtype == contents.dtype

    return [shard for shard in range(len(contents.rows)) if not intact(shard)]


def _opened(folder: Path, contents: Contents, shard: int) -> np.ndarray:
    # An empty file cannot be mapped.
    mode = "r" if contents.rows[shard] else None
    return np.load(folder / _name(shard), mmap_mode=mode).view(contents.dtype)


def _name(shard: int) -> str:
    return f"{shard:05d}.npy"
