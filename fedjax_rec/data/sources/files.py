"""Finds the files of a data set in a folder or a zip, and decodes them."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path

from fedjax_rec.storage.errors import FileError

Matches = Callable[[Collection[str]], bool]
"""Whether a folder with these file names holds the wanted files."""


@dataclasses.dataclass(frozen=True)
class InputFile:
    """Content of a file, read once so that its hash and its content agree.

    Attributes:
        label: Name in error messages: the path, or `archive.zip:member`.
        data: Content of the file.
    """

    label: str
    data: bytes

    @classmethod
    def read(cls, path: str | Path, fix: str = "") -> "InputFile":
        """Reads the file at `path`.

        Raises:
            FileError: It cannot be read; the message ends with `fix`.
        """
        path = Path(path).expanduser()
        try:
            return cls(str(path), path.read_bytes())
        except OSError as error:
            message = f"cannot be read ({error.strerror})"
            raise FileError(message, file=path, fix=fix) from error

    def error(
        self, message: str, expected: str, fix: str = "", line: int | None = None
    ) -> FileError:
        """Returns an error about this file."""
        return FileError(
            message, file=self.label, line=line, expected=expected, fix=fix
        )

    def text(self, *encodings: str) -> str:
        """Decodes the content with the first of `encodings` (default UTF-8) that fits.

        Raises:
            FileError: The file is empty or binary, no encoding fits, or an encoding
                does not exist.
        """
        encodings = encodings or ("utf-8",)
        expected = f"text encoded as {' or '.join(encodings)}"
        if not self.data.strip():
            fix = "Copy or download it again"
            raise self.error("an empty file", "rows of data", fix)
        utf16 = self.data[:2] in (b"\xff\xfe", b"\xfe\xff")
        wide = encodings[0].lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        if not wide and (utf16 or b"\0" in self.data):
            line = self.data.partition(b"\0")[0].count(b"\n") + 1
            fix = "Convert it to UTF-8, or pass encoding='utf-16' if that is it"
            raise self.error("UTF-16 text, or no text at all", expected, fix, line)
        line, byte, cause = 1, 0, None
        for encoding in encodings:
            try:
                return self.data.decode(encoding).removeprefix("\ufeff")
            except LookupError as error:
                fix = "Use a name that Python knows, such as 'utf-8' or 'latin-1'"
                message = f"unknown encoding {encoding!r}"
                raise FileError(message, file=self.label, fix=fix) from error
            except UnicodeDecodeError as error:
                line, byte = self.data[: error.start].count(b"\n") + 1, error.start
                cause = error
        message = f"byte 0x{self.data[byte]:02x}, which is not {encodings[-1]}"
        fix = "If it is older Western text, pass encoding='latin-1'"
        raise self.error(message, expected, fix, line) from cause


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder, or a folder inside a zip, that holds a data set.

    Attributes:
        path: Path of the folder or the zip.
        prefix: Prefix of the member names in a zip.
        names: Names of the files.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]

    def read(self, name: str) -> InputFile:
        """Reads the file called `name`."""
        fix = "Copy or download it again"
        if self.path.is_dir():
            return InputFile.read(self.path / name, fix)
        label = f"{self.path}:{self.prefix}{name}"
        try:
            with zipfile.ZipFile(self.path) as archive:
                return InputFile(label, archive.read(self.prefix + name))
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            # zipfile raises RuntimeError for a member that needs a password.
            message = f"cannot be read ({error})"
            raise FileError(message, file=label, fix=fix) from error


def open_folder(path: str | Path, expected: str, matches: Matches) -> Folder:
    """Opens the folder at `path`, or the shallowest match inside the zip at `path`.

    Args:
        path: A folder or a zip.
        expected: The wanted files, as an error message lists them.
        matches: Recognises the wanted folder by its file names.

    Raises:
        FileError: It is missing or holds other files. The message lists them and, if a
            neighbouring folder holds the wanted files, that folder.
    """
    path = Path(path).expanduser()
    candidates = _folders(path)
    for folder in candidates:
        if matches(folder.names):
            return folder
    neighbour = _neighbour(path, matches)
    fix = f"Did you mean {neighbour}?" if neighbour else "Pass dir= the right folder"
    if not path.exists():
        raise FileError("no folder or zip there", file=path, expected=expected, fix=fix)
    names = sorted(name for folder in candidates for name in folder.names)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    raise FileError(shown or "no files", file=path, expected=expected, fix=fix)


def _folders(path: Path) -> list[Folder]:
    """Lists `path` itself, or the folders inside the zip there, shallowest first."""
    if path.is_dir():
        try:
            names = sorted(child.name for child in path.iterdir() if child.is_file())
        except OSError as error:
            raise FileError(f"cannot be read ({error.strerror})", file=path) from error
        return [Folder(path, "", tuple(names))]
    if not path.is_file():
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.namelist() if not m.endswith("/")]
    except (OSError, zipfile.BadZipFile) as error:
        message = f"a file that is no readable zip ({error}); expected a folder or zip"
        fix = "Pass the folder that holds the data, or download the zip again"
        raise FileError(message, file=path, fix=fix) from error
    by_parent: dict[str, list[str]] = {}
    for member in sorted(members):
        parent, slash, name = member.rpartition("/")
        by_parent.setdefault(parent + slash, []).append(name)
    parents = sorted(by_parent, key=lambda parent: (parent.count("/"), parent))
    return [Folder(path, parent, tuple(by_parent[parent])) for parent in parents]


def _neighbour(path: Path, matches: Matches) -> Path | None:
    """Finds a child, sibling or parent of `path` that holds the wanted files."""
    candidates: list[Path] = []
    for folder in (path, path.parent):
        if folder.is_dir() and os.access(folder, os.R_OK):
            candidates += sorted(folder.iterdir())[:100]
    for candidate in [*candidates, path.parent]:
        zipped = candidate.is_file() and candidate.suffix == ".zip"
        if candidate == path or not (zipped or candidate.is_dir()):
            continue
        try:
            if any(matches(folder.names) for folder in _folders(candidate)):
                return candidate
        except (FileError, OSError):
            continue  # an unreadable neighbour is not the user's error
    return None
