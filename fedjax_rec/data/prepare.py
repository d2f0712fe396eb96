"""Reading a data set: prepared once through TFDS, then from its cache."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedjax_rec.data.errors import DataError
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources import SOURCES, Source, builder
from fedjax_rec.data.sources.download import fetch, held_archive
from fedjax_rec.data.sources.history import require_history
from fedjax_rec.data.sources.source import fingerprint

_LOG = logging.getLogger(__name__)
_TEMPORARY = ".preparing"


def load(
    source: str,
    *,
    dir: str | Path | None = None,
    cache: str | Path | None = None,
    min_interactions: int = 0,
    items_file: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
    **options: Any,
) -> Interactions:
    """The interactions of a data set.

    The first call parses the files and writes them, one record a user, into the cache;
    later calls with the same files and options read them from there. A file whose
    content changed is prepared anew.

    Args:
        source: a name of `sources.SOURCES`.
        dir: the folder or zip with the files (for `csv` and `amazon` also the file).
        cache: where prepared data are kept; by default what the environment variable
            `FEDJAX_REC_CACHE` says, else `~/.cache/fedjax_rec`.
        min_interactions: users with fewer are dropped, and counted in `notes`.
        items_file: for `csv` and `amazon`: the table of items.
        download: whether to fetch the files where `dir` is `None`.
        progress: whether to show bars on stderr.
        **options: the source's own (`SOURCES[source].options`).

    Returns:
        The interactions, with the order of the files in `position`.

    Raises:
        DataError: the source, an option, a folder or a file's content is not right.
    """
    if source not in SOURCES:
        raise DataError(f"unknown source {source!r}", expected=", ".join(SOURCES))
    spec = SOURCES[source]
    options = spec.check({**options, "items_file": items_file})
    root = Path(cache or os.environ.get("FEDJAX_REC_CACHE") or "~/.cache/fedjax_rec")
    root = root.expanduser().absolute()
    inputs = spec.find(_files(spec, dir, root, download, progress), options)
    origin = {
        "source": source,
        "form": builder.VERSION,
        "files": fingerprint(inputs),
        "min_interactions": min_interactions,
        # Which files were chosen shows in their hashes, wherever they lie.
        "options": {k: str(options[k]) for k in sorted(options) if "file" not in k},
    }
    config = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:20]
    entry = root / builder.builder_name(source) / config
    if not entry.exists():
        interactions = require_history(spec.parse(inputs, options), min_interactions)
        _LOG.info("%s: prepared; counts %s", source, dict(interactions.notes))
        with _temporary(root) as folder:
            written = builder.write(
                interactions, folder, source, config, origin=origin, progress=progress
            )
            _publish(written.parent, entry)
    return builder.read(entry / builder.VERSION)


def _files(
    spec: Source, dir: str | Path | None, root: Path, download: bool, progress: bool
) -> Path:
    """Where the files are: `dir`, or an archive that was downloaded."""
    if dir is not None:
        return Path(dir).expanduser()
    if spec.download is None:
        raise DataError(f"{spec.name}: no folder given", fix=f"Pass dir=: {spec.doc}")
    archives = root / "downloads"
    if download:
        return fetch(spec.download, archives, progress=progress)
    held = held_archive(spec.download, archives)
    if held is None:
        raise DataError(
            f"{spec.name}: no folder given",
            fix=f"Pass dir= ({spec.doc}), or download=True for {spec.download.url}",
        )
    return held


@contextlib.contextmanager
def _temporary(root: Path) -> Iterator[Path]:
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


def _publish(prepared: Path, entry: Path) -> None:
    """Moves a finished folder to its place, unless another process was faster."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    try:
        prepared.rename(entry)
    except OSError:
        if not entry.exists():
            raise
        _LOG.info("%s was prepared by another process meanwhile", entry)
