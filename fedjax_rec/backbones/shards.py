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
from fedjax_rec.storage.files import PARTIAL, digest, replacing
from fedjax_rec.storage.locks import locked

_LOG = logging.getLogger(__name__)
_FORM = 1  # of the files; older and newer ones are other folders
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds: it is named by the hash of all this.

    Attributes:
        about: what decides the values.
        width: `D`.
        dtype: of the values, such as `bfloat16`.
        bounds: first text of each shard, and the one after its last.
        rows: of each shard.
    """

    about: dict[str, Any]
    width: int
    dtype: np.dtype
    bounds: list[tuple[int, int]]
    rows: list[int]

    @property
    def header(self) -> dict[str, Any]:
        """What a manifest begins with; all of it is in the folder's name, too."""
        return {
            "form": _FORM,
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
        """NumPy's files know no bfloat16: its bits are stored."""
        return np.dtype(np.uint16) if self.dtype.name == "bfloat16" else self.dtype


def kept(
    contents: Contents,
    root: Path | None,
    compute: Callable[[list[int]], Iterator[np.ndarray]],
) -> list[np.ndarray]:
    """The shards of `contents`, from disk where they are there and whole.

    Of two processes that want the same, one computes and the other waits for it.

    Args:
        contents: what is wanted.
        root: of all such folders; `None` computes everything and writes nothing.
        compute: from the numbers of shards to their arrays `[rows, D]`, in order.

    Returns:
        An array `[rows, D]` a shard; those on disk are mapped, not read.

    Raises:
        FileError: something is missing and `root` cannot be written.
    """
    numbers = range(len(contents.rows))
    if root is None:
        return list(compute(list(numbers)))
    folder = root / contents.key
    if _missing(folder, contents, _sums(folder, contents)):
        fix = "Pass another folder, or none to keep nothing on disk"
        lock = folder / ".lock"
        with writable(root, fix), locked(lock, wait=True, fix=fix) as held:
            if held:  # so unfinished files are of processes that were killed
                for partial in folder.glob(f"{PARTIAL}*"):
                    partial.unlink(missing_ok=True)
            sums = _sums(folder, contents)  # another may have built it meanwhile
            missing = _missing(folder, contents, sums)
            if missing:
                _report(folder, sums, missing)
                _build(folder, contents, sums, missing, compute)
    return [_opened(folder, contents, shard) for shard in numbers]


def _build(
    folder: Path,
    contents: Contents,
    sums: dict[str, str],
    missing: list[int],
    compute: Callable[[list[int]], Iterator[np.ndarray]],
) -> None:
    good = {_name(shard) for shard in range(len(contents.rows)) if shard not in missing}
    sums = {name: sums[name] for name in good}
    for shard, array in zip(missing, compute(missing), strict=True):
        with replacing(folder / _name(shard)) as partial:
            np.save(partial, np.ascontiguousarray(array).view(contents.stored))
            sums[_name(shard)] = digest(partial)
        # After every shard: a run that is killed leaves what it has done.
        with replacing(folder / _MANIFEST) as partial:
            manifest = {**contents.header, "sha256": dict(sorted(sums.items()))}
            partial.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")


def _sums(folder: Path, contents: Contents) -> dict[str, str]:
    """What the manifest says of each shard; nothing where it is not to be trusted."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        _LOG.warning("%s cannot be read", folder / _MANIFEST)
        return {}
    sums = manifest.pop("sha256", None) if isinstance(manifest, dict) else None
    if manifest != contents.header or not isinstance(sums, dict):
        _LOG.warning("%s describes something else", folder / _MANIFEST)
        return {}
    return sums


def _missing(folder: Path, contents: Contents, sums: dict[str, str]) -> list[int]:
    """The shards that are not there, or not what the manifest says."""

    def whole(shard: int) -> bool:
        name = _name(shard)
        try:
            if digest(folder / name) != sums.get(name):
                return False
            array = _opened(folder, contents, shard)
        except (OSError, ValueError):
            return False
        shape = (contents.rows[shard], contents.width)
        return array.shape == shape and array.dtype == contents.dtype

    return [shard for shard in range(len(contents.rows)) if not whole(shard)]


def _opened(folder: Path, contents: Contents, shard: int) -> np.ndarray:
    # An empty file cannot be mapped.
    mode = "r" if contents.rows[shard] else None
    return np.load(folder / _name(shard), mmap_mode=mode).view(contents.dtype)


def _report(folder: Path, sums: dict[str, str], missing: list[int]) -> None:
    damaged = [_name(shard) for shard in missing if _name(shard) in sums]
    if damaged:
        _LOG.warning("%s: computed again: %s", folder, ", ".join(damaged))


def _name(shard: int) -> str:
    return f"{shard:05d}.npy"
