"""Verified downloads, which leave either the complete file or none."""

import contextlib
import dataclasses
import http.client
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fedjax_rec.storage.errors import FileError, Unreachable
from fedjax_rec.storage.files import digest, replacing

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 60
_BLOCK = 1 << 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Download:
    """Address and checksum of a published file.

    Attributes:
        url: Address of the file.
        md5: MD5 of the file, if it never changes.
        md5_url: Address of a text with the MD5, if the publisher may replace the file.
            It detects a broken transfer, not a different publisher.
    """

    url: str
    md5: str | None = None
    md5_url: str | None = None

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rsplit("/", 1)[-1]


def fetch(download: Download, folder: Path, *, progress: bool = False) -> Path:
    """Downloads a file into `folder`, unless it is there already and intact.

    Args:
        download: Address and checksum.
        folder: Destination; the MD5 is stored next to the file.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Path of the file.

    Raises:
        Unreachable: The server does not respond.
        FileError: The content does not match the checksum. `folder` is left unchanged.
    """
    if (present := verified(download, folder)) is not None:
        return present
    target = folder / download.name
    md5 = download.md5 or _published_md5(download)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        _copy(download.url, partial, progress)
        fix = (
            "Try again; if it persists, the publisher may have changed the file: "
            "download it by hand, inspect it, and pass dir="
        )
        check_digest(partial, md5, "md5", file=download.url, fix=fix)
    _md5_file(target).write_text(md5 + "\n")
    _LOG.info("downloaded %s (MD5 %s)", download.url, md5)
    return target


def verified(download: Download, folder: Path) -> Path | None:
    """Returns a file fetched earlier, or `None` if it is absent or damaged."""
    target = folder / download.name
    try:
        md5 = download.md5 or _md5_file(target).read_text().strip()
        return target if digest(target, "md5") == md5 else None
    except OSError:
        return None


def check_digest(
    path: Path, expected: str, algorithm: str = "sha256", *, file: str, fix: str
) -> None:
    """Raises a `FileError` about `file` if the content of `path` has another hash."""
    actual = digest(path, algorithm)
    if actual != expected:
        name = {"md5": "MD5", "sha256": "SHA-256"}[algorithm]
        raise FileError(f"{name} {actual}", file=file, expected=expected, fix=fix)


def _md5_file(target: Path) -> Path:
    return target.with_name(target.name + ".md5")


def _published_md5(download: Download) -> str:
    if download.md5_url is None:
        fix = "Download it by hand and pass dir="
        raise FileError("no checksum is known", file=download.url, fix=fix)
    with _opened(download.md5_url) as reply:
        text = reply.read(4096).decode("ascii", "replace")
    match = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if match is None:
        expected = "an MD5 of 32 digits"
        raise FileError(f"{text[:60]!r}", file=download.md5_url, expected=expected)
    return match[0].lower()


def _copy(url: str, target: Path, progress: bool) -> None:
    with _opened(url) as reply, target.open("wb") as out:
        total = int(reply.headers.get("Content-Length") or 0) or None
        bar = tqdm(total=total, unit="B", unit_scale=True, disable=not progress)
        with bar:
            while block := reply.read(_BLOCK):
                out.write(block)
                bar.update(len(block))


@contextlib.contextmanager
def _opened(url: str) -> Iterator[Any]:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as reply:
            yield reply
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        message = f"cannot be downloaded ({reason})"
        fix = "Without a network, download it elsewhere and pass dir= the folder or zip"
        raise Unreachable(message, file=url, fix=fix) from error
