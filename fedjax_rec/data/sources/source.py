"""What a source is: how its files are found, parsed, and fetched."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources.files import InputFile
from fedjax_rec.storage.download import Download
from fedjax_rec.storage.errors import FileError

Options = Mapping[str, Any]
Inputs = Mapping[str, InputFile]
"""The files of a data set, by the role they play in it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """A data set, or a form of file, that interactions are read from.

    Attributes:
        name: what users call it.
        doc: one line on what it is.
        find: `(dir, options) -> inputs`; raises `FileError` for a wrong folder.
        parse: `(inputs, options) -> interactions`; raises `FileError` for bad input.
        options: names of the options it takes.
        download: where it is published, or `None`.
    """

    name: str
    doc: str
    find: Callable[[Path, Options], Inputs]
    parse: Callable[[Inputs, Options], Interactions]
    options: tuple[str, ...] = ()
    download: Download | None = None

    def read(self, dir: str | Path, options: Options | None = None) -> Interactions:
        """Parses the files in `dir` (folder or zip), past any cache."""
        options = self.check(options or {})
        return self.parse(self.find(Path(dir).expanduser(), options), options)

    def check(self, options: Options) -> dict[str, Any]:
        """The options that are set.

        Raises:
            FileError: this source does not take one of them.
        """
        given = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(given.keys() - set(self.options))
        if unknown:
            raise FileError(
                f"source {self.name!r} takes no option {', '.join(unknown)}",
                expected=f"options among: {', '.join(self.options) or 'none'}",
            )
        return given


def fingerprint(inputs: Inputs) -> dict[str, str]:
    """The SHA-256 of each file, by role."""
    return {
        role: hashlib.sha256(file.data).hexdigest()
        for role, file in sorted(inputs.items())
    }
