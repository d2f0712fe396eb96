"""Reading a data set: prepared once through TFDS, then from its cache."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_rec.data import folders
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources import SOURCES, Source, builder
from fedjax_rec.data.sources.history import require_history
from fedjax_rec.data.sources.source import fingerprint
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.download import fetch, verified
from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import publish, temporary

_LOG = logging.getLogger(__name__)
_FIX = "Pass another cache=, or set FEDJAX_REC_CACHE"


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
        FileError: the source, an option, a folder or a file's content is not right.
    """
    found = _find(
        source,
        dir=dir,
        cache=cache,
        min_interactions=min_interactions,
        items_file=items_file,
        download=download,
        progress=progress,
        **options,
    )
    entry = found.entry
    if not entry.exists():
        parsed = SOURCES[source].parse(found.inputs, found.options)
        interactions = require_history(parsed, min_interactions)
        _LOG.info("%s: prepared; counts %s", source, dict(interactions.notes))
        with temporary(cache_root(cache), _FIX) as folder:
            written = builder.write(
                interactions,
                folder,
                source,
                entry.name,
                origin=found.origin,
                progress=progress,
            )
            publish(written.parent, entry)
    return builder.read(entry / builder.VERSION)


def locate(source: str, **options: Any) -> Path:
    """Where `load` reads a data set from, prepared or not.

    The folder's name is a hash of all that decides the interactions: the content of
    the files, the options, and the form they are kept in.

    Args:
        source: as in `load`.
        **options: as in `load`.

    Raises:
        FileError: the source, an option or a folder is not right.
    """
    return _find(source, **options).entry


class _Found(NamedTuple):
    entry: Path
    inputs: Any
    options: dict[str, Any]
    origin: dict[str, Any]


def _find(
    source: str,
    *,
    dir: str | Path | None = None,
    cache: str | Path | None = None,
    min_interactions: int = 0,
    items_file: str | Path | None = None,
    download: bool = False,
    progress: bool = False,
    **options: Any,
) -> _Found:
    if source not in SOURCES:
        raise FileError(f"unknown source {source!r}", expected=", ".join(SOURCES))
    spec = SOURCES[source]
    options = spec.check({**options, "items_file": items_file})
    root = cache_root(cache)
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
    return _Found(entry, inputs, options, origin)


def _files(
    spec: Source, dir: str | Path | None, root: Path, download: bool, progress: bool
) -> Path:
    """`dir`, the usual folder in `$FEDJAX_REC_DATA`, or a downloaded archive."""
    dir = folders.usual_folder(spec.name) if dir is None else dir
    if dir is not None:
        return Path(dir).expanduser()
    if spec.download is None:
        fix = f"Pass dir= ({spec.doc}){folders.advice(spec.name)}"
        raise FileError(f"{spec.name}: no folder given", fix=fix)
    archives = root / "downloads"
    if download:
        return fetch(spec.download, archives, progress=progress)
    held = verified(spec.download, archives)
    if held is None:
        raise FileError(
            f"{spec.name}: no folder given",
            fix=f"Pass dir= ({spec.doc}){folders.advice(spec.name)}, or download=True "
            f"for {spec.download.url}",
        )
    return held
