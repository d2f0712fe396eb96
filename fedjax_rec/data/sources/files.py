"""Finding a data set's files in a folder or a zip, and decoding them."""

import dataclasses
import os
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePosixPath

from fedjax_rec.storage.errors import FileError

Matches = Callable[[Collection[str]], bool]
"""Whether a folder with these file names is the one wanted."""


@dataclasses.dataclass(frozen=True)
class InputFile:
    """One file's bytes, read once so that its hash and its content agree.

    Attributes:
        label: how errors call it: its path, or `archive.zip:member`.
        data: its content.
    """

    label: str
    data: bytes

    def text(self, *encodings: str) -> str:
        """The text, by the first of `encodings` (default UTF-8) that decodes it.

        Raises:
            FileError: the file is empty, binary, or in none of the encodings; or an
                encoding does not exist.
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
            raise FileError(
                "UTF-16 text, or no text at all",
                file=self.label,
                line=self.data.partition(b"\0")[0].count(b"\n") + 1,
                expected=f"text encoded as {' or '.join(encodings)}",
                fix="Convert it to UTF-8, or pass encoding='utf-16' if that is it",
            )
        failure = None
        for encoding in encodings:
            try:
                return self.data.decode(encoding).removeprefix("\ufeff")
            except LookupError as error:
                raise FileError(
                    f"unknown encoding {encoding!r}",
                    file=self.label,
                    fix="Use a name Python knows, such as 'utf-8' or 'latin-1'",
                ) from error
            except UnicodeDecodeError as error:
                failure = error
        assert failure is not None
        byte = self.data[failure.start]
        raise FileError(
            f"byte 0x{byte:02x}, which is not {encodings[-1]}",
            file=self.label,
            line=self.data[: failure.start].count(b"\n") + 1,
            expected=f"text encoded as {' or '.join(encodings)}",
            fix="If it is older Western text, pass encoding='latin-1'",
        ) from failure


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder, or one folder inside a zip, that holds a data set.

    Attributes:
        path: of the folder or of the zip.
        prefix: of the member names, for a zip.
        names: of the files in it.
    """

    path: Path
    prefix: str
    names: tuple[str, ...]

    def read(self, name: str) -> InputFile:
        """The file called `name`."""
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
        """The files by name; an optional one that is absent is left out."""
        present = [name for name in optional if name in self.names]
        return {name: self.read(name) for name in (*required, *present)}


def open_folder(path: str | Path, expected: str, matches: Matches) -> Folder:
    """The folder at `path`, or the shallowest one inside the zip at `path`.

    Args:
        path: a folder or a zip.
        expected: the wanted files, as an error would list them.
        matches: tells the wanted folder by its file names.

    Raises:
        FileError: it is missing or holds other files; names what was found and, where
            a neighbour holds the files, that neighbour.
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


def open_with(path: str | Path, required: Sequence[str]) -> Folder:
    """The folder or zip that holds every one of `required`; else as `open_folder`."""
    wanted = set(required)
    return open_folder(path, ", ".join(required), lambda names: wanted <= set(names))


def _folders(path: Path) -> list[Folder]:
    """`path` itself, or the folders inside the zip there, shallowest first."""
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
    """A child, sibling or parent of `path` that holds the wanted files."""
    found: list[Path] = []
    for around in (path, path.parent):
        if around.is_dir() and os.access(around, os.R_OK):
            found += sorted(around.iterdir())[:100]
    for candidate in [*found, path.parent]:
        zipped = candidate.is_file() and candidate.suffix == ".zip"
        if candidate == path or not (zipped or candidate.is_dir()):
            continue
        try:
            if any(matches(folder.names) for folder in _folders(candidate)):
                return candidate
        except (FileError, OSError):
            continue  # a broken neighbour is no suggestion, and not the user's error
    return None
