"""Fetching a published archive: verified, and never half there."""

import hashlib
import http.client
import logging
import os
import re
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from fedjax_rec.data.errors import DataError
from fedjax_rec.data.sources.source import Download

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 60
_BLOCK = 1 << 20


def fetch(download: Download, folder: Path, *, progress: bool = False) -> Path:
    """The archive in `folder`, downloaded unless it is there and whole.

    Args:
        download: what to fetch and what to hold it against.
        folder: where archives are kept.
        progress: whether to show a bar on stderr.

    Returns:
        The path of the archive.

    Raises:
        DataError: it cannot be reached, or is not what was promised; nothing is left
            in `folder` then.
    """
    target = folder / download.url.rsplit("/", 1)[-1]
    if (held := held_archive(download, folder)) is not None:
        return held
    promised = download.md5 or _published_md5(download)
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=".partial-")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as out:
            found = _copy(download.url, out, progress)
        if found != promised:
            raise DataError(
                f"MD5 {found}",
                file=download.url,
                expected=promised,
                fix="Try again; if it stays, the publisher may have changed the file: "
                "download it by hand, look at it, and pass dir=",
            )
        os.replace(partial, target)
        _md5_note(target).write_text(promised + "\n")
    finally:
        partial.unlink(missing_ok=True)
    _LOG.info("downloaded %s (MD5 %s)", download.url, promised)
    return target


def held_archive(download: Download, folder: Path) -> Path | None:
    """The archive fetched earlier, or `None` where it is absent or damaged."""
    target = folder / download.url.rsplit("/", 1)[-1]
    try:
        promised = download.md5 or _md5_note(target).read_text().strip()
        found = hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError:
        return None
    return target if found == promised else None


def _md5_note(target: Path) -> Path:
    """Where the MD5 that a publisher promised on the day is kept."""
    return target.with_name(target.name + ".md5")


def _published_md5(download: Download) -> str:
    if download.md5_url is None:
        raise DataError(
            "no checksum is known",
            file=download.url,
            fix="Download it by hand and pass dir=",
        )
    try:
        with urllib.request.urlopen(download.md5_url, timeout=_TIMEOUT_S) as reply:
            text = reply.read(4096).decode("ascii", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(download.md5_url, error) from error
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise DataError(
            f"{text[:60]!r}", file=download.md5_url, expected="an MD5 of 32 digits"
        )
    return found[0].lower()


def _copy(url: str, out, progress: bool) -> str:
    """Writes what is at `url` to `out`, and returns its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            total = int(reply.headers.get("Content-Length") or 0) or None
            bar = tqdm(total=total, unit="B", unit_scale=True, disable=not progress)
            with bar:
                while block := reply.read(_BLOCK):
                    out.write(block)
                    digest.update(block)
                    bar.update(len(block))
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(url, error) from error
    return digest.hexdigest()


def _unreachable(url: str, error: Exception) -> DataError:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return DataError(
        f"cannot be downloaded ({reason})",
        file=url,
        fix="Without a network, download it on another machine and pass dir= the "
        "folder or the zip",
    )
