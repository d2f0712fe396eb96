"""Reading of a data set, which is prepared once through TFDS and then cached."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from fedjax_rec.data import folders
from fedjax_rec.data.filters import require_history
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources import SOURCES, builder
from fedjax_rec.data.sources.source import Inputs, Source, fingerprint
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.download import fetch, verified
from fedjax_rec.storage.errors import FileError
from fedjax_rec.storage.files import publish, temporary
from fedjax_rec.storage.sources import package_sources

_LOG = logging.getLogger(__name__)
_FIX = "Pass another cache=, or set FEDJAX_REC_CACHE"


def load(
    source: str,
    *,
    dir: str | Path | None = None,
    cache: str | Path | None = None,
    min_interactions: int = 0,
    download: bool = False,
    progress: bool = False,
    **options: Any,
) -> Interactions:
    """Loads the interactions of a data set.

    The first call parses the files and writes them into the cache, one record per user;
    later calls with the same files and options read them from there. A file with
    changed content is prepared again.

    Args:
        source: A name in `sources.SOURCES`.
        dir: Folder or zip with the files; for `csv` and `amazon` also the file.
        cache: Folder for prepared data, by default `$FEDJAX_REC_CACHE` or
            `~/.cache/fedjax_rec`.
        min_interactions: Users with fewer are dropped and counted in `notes`.
        download: Whether to download the files if `dir` is `None`.
        progress: Whether to show progress bars on stderr.
        **options: Options of the source (`SOURCES[source].options`), such as
            `items_file`, the table of items, for `csv` and `amazon`.

    Returns:
        The interactions, with the order of the files in `position`.

    Raises:
        FileError: The source, an option, a folder or the content of a file is wrong.
    """
    entry, inputs, options, origin = _find(
        source,
        dir=dir,
        cache=cache,
        min_interactions=min_interactions,
        download=download,
        progress=progress,
        **options,
    )
    if not entry.exists():
        parsed = SOURCES[source].parse(inputs, options)
        interactions = require_history(parsed, min_interactions)
        _LOG.info("%s: prepared; counts %s", source, dict(interactions.notes))
        with temporary(cache_root(cache), _FIX) as folder:
            written = builder.write(
                interactions,
                folder,
                source,
                entry.name,
                origin=origin,
                progress=progress,
            )
            publish(written.parent, entry)
    return builder.read(entry / builder.VERSION)


def locate(source: str, **options: Any) -> Path:
    """Returns the folder from which `load` reads a data set, prepared or not.

    Its name is a hash of everything that determines the interactions: the content of
    the files, the options, the record format, and the code that reads them. The
    arguments and errors are those of `load`.
    """
    return _find(source, **options)[0]


def _find(
    source: str,
    *,
    dir: str | Path | None = None,
    cache: str | Path | None = None,
    min_interactions: int = 0,
    download: bool = False,
    progress: bool = False,
    **options: Any,
) -> tuple[Path, Inputs, dict[str, Any], dict[str, Any]]:
    """Returns the cache entry, the files, the options, and the identity of the data."""
    if source not in SOURCES:
        raise FileError(f"unknown source {source!r}", expected=", ".join(SOURCES))
    spec = SOURCES[source]
    options = spec.check(options)
    root = cache_root(cache)
    inputs = spec.find(_files(spec, dir, root, download, progress), options)
    origin = {
        "source": source,
        "form": builder.VERSION,
        "code": package_sources("data"),
        "files": fingerprint(inputs),
        "min_interactions": min_interactions,
        # The hashes show which files were chosen, wherever they are.
        "options": {k: str(options[k]) for k in sorted(options) if "file" not in k},
    }
    config = hashlib.sha256(json.dumps(origin).encode()).hexdigest()[:20]
    entry = root / builder.builder_name(source) / config
    return entry, inputs, options, origin


def _files(
    spec: Source, dir: str | Path | None, root: Path, download: bool, progress: bool
) -> Path:
    """`dir`, the usual folder in `$FEDJAX_REC_DATA`, or a downloaded archive."""
    dir = folders.usual_folder(spec.name) if dir is None else dir
    if dir is not None:
        return Path(dir).expanduser()
    fix = f"Pass dir= ({spec.doc}){folders.advice(spec.name)}"
    if spec.download is not None:
        archives = root / "downloads"
        if download:
            return fetch(spec.download, archives, progress=progress)
        if (archive := verified(spec.download, archives)) is not None:
            return archive
        fix += f", or download=True for {spec.download.url}"
    raise FileError(f"{spec.name}: no folder given", fix=fix)
