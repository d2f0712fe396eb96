"""Finding a table of interactions, whatever its name, and the tables beside it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedjax_rec.data.sources.files import InputFile, open_folder
from fedjax_rec.data.sources.source import Inputs, Options
from fedjax_rec.storage.errors import FileError


def find_table(
    path: Path,
    options: Options,
    suffixes: tuple[str, ...],
    sidecars: Mapping[str, str] | None = None,
) -> Inputs:
    """The interactions, and the users' and items' tables where there are any.

    Args:
        path: the interactions' file, or a folder or zip that holds it.
        options: `file` picks it among several; `items_file` and `users_file` are
            paths, or names in the same folder.
        suffixes: of the file names that count as interactions.
        sidecars: `items` and `users` to the suffix that marks their table, so that
            it is found without its option.

    Raises:
        FileError: there is no such file, or more than one to choose from.
    """
    wanted = options.get("file")
    if path.is_file() and path.suffix.lower() != ".zip":
        path, wanted = path.parent, path.name
    given = {role: options.get(f"{role}_file") for role in ("items", "users")}
    aside = {Path(table).name for table in given.values() if table is not None}

    def candidates(names: Iterable[str]) -> list[str]:
        if wanted is not None:
            return [name for name in names if name == wanted]
        return [n for n in names if n.lower().endswith(suffixes) and n not in aside]

    expected = wanted or f"one file ending in {', '.join(suffixes)}"
    folder = open_folder(path, expected, lambda names: bool(candidates(names)))
    found = candidates(folder.names)
    if len(found) > 1:
        raise FileError(
            ", ".join(found),
            file=path,
            expected=expected,
            fix=f"Choose one, for example file={found[0]!r}",
        )
    inputs = {"interactions": folder.read(found[0])}
    for role, table in given.items():
        if table is None and sidecars is not None:
            table = _sidecar(found[0], folder.names, sidecars[role])
        if table is not None:
            inside = str(table) in folder.names
            inputs[role] = folder.read(str(table)) if inside else _outside(table)
    return inputs


def _sidecar(name: str, names: Sequence[str], suffix: str) -> str | None:
    """`A.item` or `A.test.item` beside `A.test.inter`, else the only `.item`."""
    stem = name
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem + suffix in names:
            return stem + suffix
    others = [other for other in names if other.endswith(suffix)]
    return others[0] if len(others) == 1 else None


def _outside(table: str | Path) -> InputFile:
    path = Path(table).expanduser()
    try:
        return InputFile(str(path), path.read_bytes())
    except OSError as error:
        raise FileError(
            f"cannot be read ({error.strerror})",
            file=path,
            fix="Pass a path, or a name in the folder of the interactions",
        ) from error
