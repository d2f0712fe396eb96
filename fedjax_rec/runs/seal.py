"""Seals: hashes of the files in a folder, written when the folder is complete.

They reveal changed bytes, and folders that a killed process removed in part.
"""

import json
from pathlib import Path

from fedjax_rec.storage.files import digest

SEAL = "seal.json"
_UNSEALED = (SEAL, "_CHECKPOINT_METADATA")  # Orbax changes its metadata until the end


class Damaged(ValueError):
    """Files of a sealed folder were changed or removed."""


def write_seal(folder: Path) -> None:
    """Writes the hashes of a folder's files."""
    text = json.dumps(_hashes(folder), indent=1)
    (folder / SEAL).write_text(text, encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Compares a folder with its seal.

    Raises:
        Damaged: a file was removed or changed, or the folder has no valid seal.
        OSError: a file cannot be read, which says nothing about its content.
    """
    if not (folder / SEAL).exists():
        raise Damaged("it is not complete")
    try:
        seal = json.loads((folder / SEAL).read_bytes())
    except ValueError as error:
        raise Damaged(f"its file {SEAL} is not JSON: {error}") from error
    hashes = _hashes(folder)
    for name, sealed in seal.items():
        if name not in hashes:
            raise Damaged(f"its file {name} is gone")
        if hashes[name] != sealed:
            raise Damaged(f"its file {name} has changed since it was written")


def _hashes(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in files
        if path.name not in _UNSEALED
    }
