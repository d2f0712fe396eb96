"""Finds the files of a data set in a folder or a zip, and decodes them."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath

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
            raise FileError(
                f"cannot be read ({error.strerror})", file=path, fix=fix
            ) from error

    def text(self, *encodings: str) -> str:
        """Decodes the content with the first of `encodings` (default UTF-8) that fits.

        Raises:
            FileError: The file is empty or binary, no encoding fits, or an encoding
                does not exist.
        """
        encodings = encodings or ("utf-8",)
        if not self.data.strip():
            raise FileError(
                "an empty file",
                file=self.label,
                expected="rows of data",
                fix="Copy or download it again",
            )
        utf16 = self.data[:2] in (b"\xff\xfe", b"\xfe\xff")
        wide = encodings[0].lower().replace("_", "-").startswith(("utf-16", "utf-32"))
        if not wide and (utf16 or b"\0" in self.data):
            raise self._undecodable(
                "UTF-16 text, or no text at all",
                self.data.partition(b"\0")[0],
                encodings,
                "Convert it to UTF-8, or pass encoding='utf-16' if that is it",
            )
        failure = None
        for encoding in encodings:
            try:
                return self.data.decode(encoding).removeprefix("\ufeff")
            except LookupError as error:
                raise FileError(
                    f"unknown encoding {encoding!r}",
                    file=self.label,
                    fix="Use a name that Python knows, such as 'utf-8' or 'latin-1'",
                ) from error
            except UnicodeDecodeError as error:
                failure = error
        assert failure is not None
        raise self._undecodable(
            f"byte 0x{self.data[failure.start]:02x}, which is not {encodings[-1]}",
            self.data[: failure.start],
            encodings,
            "If it is older Western text, pass encoding='latin-1'",
        ) from failure

    def _undecodable(
        self, message: str, before: bytes, encodings: Sequence[str], fix: str
    ) -> FileError:
        return FileError(
            message,
            file=self.label,
            line=before.count(b"\n") + 1,
            expected=f"text encoded as {' or '.join(encodings)}",
            fix=fix,
        )


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
        try:
            if self.path.is_dir():
                path = self.path / name
                return InputFile(str(path), path.read_bytes())
            with zipfile.ZipFile(self.path) as archive:
                member = self.prefix + name
                return InputFile(f"{self.path}:{member}", archive.read(member))
        except (OSError, zipfile.BadZipFile, RuntimeError) as error:
            # zipfile raises RuntimeError for a member that needs a password.
            raise FileError(
                f"cannot be read ({error})",
                file=f"{self.path}/{self.prefix}{name}",
                fix="Copy or download it again",
            ) from error

    def read_all(
        self, required: Sequence[str], optional: Sequence[str] = ()
    ) -> dict[str, InputFile]:
        """Reads files by name; optional ones that are absent are left out."""
        present = [name for name in optional if name in self.names]
        return {name: self.read(name) for name in (*required, *present)}


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
        raise FileError(
            f"a file that is no readable zip ({error})",
            file=path,
            expected="a folder or a zip",
            fix="Pass the folder that holds the data, or download the zip again",
        ) from error
    by_parent: dict[str, list[str]] = {}
    for member in members:
        parent, name = PurePosixPath(member).parent.as_posix(), Path(member).name
        by_parent.setdefault("" if parent == "." else parent + "/", []).append(name)
    parents = sorted(by_parent, key=lambda parent: (parent.count("/"), parent))
    return [
        Folder(path, parent, tuple(sorted(by_parent[parent]))) for parent in parents
    ]


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
