"""Description of a source, and the functions that several sources share."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_rec.data.interactions import Entities, Interactions
from fedjax_rec.data.sources.convert import ANY_ID, INTEGER_ID, Vocabulary
from fedjax_rec.data.sources.files import InputFile, open_folder
from fedjax_rec.data.sources.tables import Column, Table
from fedjax_rec.storage.download import Download
from fedjax_rec.storage.errors import FileError

Options = Mapping[str, Any]
Inputs = Mapping[str, InputFile]
"""The files of a data set, by their role."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, or a kind of file, from which interactions are read.

    Attributes:
        name: Name for users.
        doc: One line about it.
        find: `(dir, options) -> inputs`; raises `FileError` for a wrong folder.
        parse: `(inputs, options) -> interactions`; raises `FileError` for bad input.
        options: Names of its options.
        download: Address of the published archive, or `None`.
    """

    name: str
    doc: str
    find: Callable[[Path, Options], Inputs]
    parse: Callable[[Inputs, Options], Interactions]
    options: tuple[str, ...] = ()
    download: Download | None = None

    def read(self, dir: str | Path, options: Options | None = None) -> Interactions:
        """Parses the files in `dir` (folder or zip) without the cache."""
        options = self.check(options or {})
        return self.parse(self.find(Path(dir).expanduser(), options), options)

    def check(self, options: Options) -> dict[str, Any]:
        """Returns the options that are not `None`.

        Raises:
            FileError: This source does not take one of them.
        """
        present = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(present.keys() - set(self.options))
        if unknown:
            raise FileError(
                f"source {self.name!r} takes no option {', '.join(unknown)}",
                expected=f"options among: {', '.join(self.options) or 'none'}",
            )
        return present


def fingerprint(inputs: Inputs) -> dict[str, str]:
    """Returns the SHA-256 of each file, by role."""
    return {
        role: hashlib.sha256(file.data).hexdigest()
        for role, file in sorted(inputs.items())
    }


def find_table(
    path: Path,
    options: Options,
    suffixes: tuple[str, ...],
    sidecars: Mapping[str, str] | None = None,
) -> Inputs:
    """Finds a table of interactions and, if there are any, of users and items.

    Args:
        path: The file with the interactions, or a folder or zip that contains it.
        options: `file` selects it among several; `items_file` and `users_file` are
            paths, or names in the same folder.
        suffixes: Suffixes of file names that hold interactions.
        sidecars: Suffixes that mark the tables of `items` and `users`, which are then
            found without their options.

    Raises:
        FileError: There is no such file, or more than one to choose from.
    """
    wanted = options.get("file")
    if path.is_file() and path.suffix.lower() != ".zip":
        path, wanted = path.parent, path.name
    tables = {role: options.get(f"{role}_file") for role in ("items", "users")}
    others = {Path(table).name for table in tables.values() if table is not None}

    def candidates(names: Iterable[str]) -> list[str]:
        if wanted is not None:
            return [name for name in names if name == wanted]
        return [n for n in names if n.lower().endswith(suffixes) and n not in others]

    expected = wanted or f"one file ending in {', '.join(suffixes)}"
    folder = open_folder(path, expected, lambda names: bool(candidates(names)))
    name, *ambiguous = candidates(folder.names)
    if ambiguous:
        names, fix = ", ".join([name, *ambiguous]), f"Choose one, such as file={name!r}"
        raise FileError(names, file=path, expected=expected, fix=fix)
    inputs = {"interactions": folder.read(name)}
    for role, table in tables.items():
        if table is None and sidecars is not None:
            table = _sidecar(name, folder.names, sidecars[role])
        if table is not None and str(table) in folder.names:
            inputs[role] = folder.read(str(table))
        elif table is not None:
            fix = "Pass a path, or a name in the folder of the interactions"
            inputs[role] = InputFile.read(table, fix)
    return inputs


def _sidecar(name: str, names: Sequence[str], suffix: str) -> str | None:
    """Returns `A.item` or `A.test.item` for `A.test.inter`, else the only `.item`."""
    stem = name
    while "." in stem:
        stem = stem.rpartition(".")[0]
        if stem + suffix in names:
            return stem + suffix
    others = [other for other in names if other.endswith(suffix)]
    return others[0] if len(others) == 1 else None


def read_catalog(
    table: Table,
    *,
    id_index: int = 0,
    title_index: int | None = None,
    strict: bool = False,
) -> tuple[Entities, int]:
    """Reads a table of users or items; the other columns become attributes.

    Args:
        table: The table.
        id_index: Index of the column of identifiers.
        title_index: Index of the column of titles, or `None` if there is none.
        strict: Whether identifiers must be distinct whole numbers. Otherwise the first
            row of a repeated identifier counts.

    Returns:
        The users or items in the order of the table, and the number of repeated rows.
    """
    vocabulary = Vocabulary(integer=strict)
    expected = INTEGER_ID if strict else ANY_ID
    columns = [
        Column(name, index, list, "a text")
        for index, name in enumerate(table.names)
        if index != id_index
    ]
    codes, *texts = table.read([Column("id", id_index, vocabulary, expected), *columns])
    # Codes count up from 0, so a row is new if its code exceeds all earlier ones.
    new = np.diff(np.maximum.accumulate(codes), prepend=-1) > 0
    if strict and not new.all():
        row = int(np.argmin(new))
        message = f"id {vocabulary.ids[codes[row]]!r} a second time"
        raise table.error(row, message, "one line for each id")
    if not new.all():
        texts = [[t for t, keep in zip(c, new, strict=True) if keep] for c in texts]
    values = {c.index: v for c, v in zip(columns, texts, strict=True)}
    titles = None if title_index is None else values.pop(title_index)
    attributes = {table.names[index]: v for index, v in values.items()}
    entities = Entities(ids=vocabulary.ids, titles=titles, attributes=attributes)
    return entities, int((~new).sum())


def extend(entities: Entities, ids: Sequence[str]) -> Entities:
    """Appends further `ids` with empty texts.

    Args:
        entities: The known users or items.
        ids: All identifiers, beginning with those of `entities`.
    """
    blank = [""] * (len(ids) - len(entities.ids))
    return Entities(
        ids=ids,
        titles=None if entities.titles is None else [*entities.titles, *blank],
        attributes={name: [*v, *blank] for name, v in entities.attributes.items()},
    )
