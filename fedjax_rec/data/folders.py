"""Folders of published data sets, which `FEDJAX_REC_DATA` gathers in one place."""

import difflib
import os
from pathlib import Path

from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.errors import FileError

VARIABLE = "FEDJAX_REC_DATA"

USUAL = {
    "movielens-100k": "ml-100k",
    "movielens-1m": "ml-1m",
    "movielens-latest-small": "ml-latest-small",
    "amazon": "amazon-games",
}
"""Usual name of each source's folder (or zip) in `$FEDJAX_REC_DATA`."""


def usual_folder(source: str) -> Path | None:
    """The folder or zip of a source in `$FEDJAX_REC_DATA`, or `None`."""
    root, name = os.environ.get(VARIABLE), USUAL.get(source)
    if not root or name is None:
        return None
    folder = Path(root).expanduser() / name
    paths = (folder, folder.with_name(f"{name}.zip"))
    return next((path for path in paths if path.exists()), None)


def advice(source: str) -> str:
    """A clause on `FEDJAX_REC_DATA` for the message about a missing folder."""
    if source not in USUAL:
        return ""
    root, name = os.environ.get(VARIABLE), USUAL[source]
    if root and usual_folder(source) is None:
        return f", or put {name} into {VARIABLE}={root}, which lacks it"
    return f", or set {VARIABLE} to a folder that contains {name}"


def check_folder(
    source: str, dir: str | None, cache: str | None = None, download: bool = False
) -> None:
    """Checks that a source has files to read, before anything heavy is imported.

    Args:
        source: name of the source.
        dir: folder, zip or file with the original files; `None` is the usual one.
        cache: folder of the cache, which may hold a downloaded archive.
        download: whether the files may be downloaded.

    Raises:
        FileError: there is no such folder.
    """
    if dir is not None:
        path = Path(dir).expanduser()
        if path.exists():
            return
        siblings = path.parent.iterdir() if path.parent.is_dir() else ()
        near = difflib.get_close_matches(path.name, [p.name for p in siblings], n=1)
        fix = f"Pass dir=, the folder of {source}{advice(source)}"
        fix = f"Did you mean {path.with_name(near[0])}? {fix}" if near else fix
        raise FileError(
            "no folder, zip or file", file=path, expected=f"files of {source}", fix=fix
        )
    downloads = cache_root(cache) / "downloads"
    if not (download or usual_folder(source) or any(downloads.glob("*"))):
        raise FileError(f"{source}: no folder given", fix=f"Pass dir={advice(source)}")
