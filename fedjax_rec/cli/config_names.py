"""Configs of the package, by name.

They are files of the repository's `configs/`, which a wheel holds inside the package.
"""

import difflib
import textwrap
from pathlib import Path

import fedjax_rec


def shipped() -> dict[str, Path]:
    """The files of the package's configs, by name."""
    package = Path(fedjax_rec.__file__).parent
    folder = package / "configs"
    if not folder.is_dir():  # a checkout
        folder = package.parent / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.py"))}


def config_file(config: str) -> Path:
    """The file of a config.

    Args:
        config: a path, or a name without folder and suffix.
    """
    return shipped().get(config, Path(config))


def near(config: str) -> str:
    """A hint for a config that does not exist: near matches, or all names."""
    file = Path(config)
    choices = {name: name for name in shipped()}
    if file.parent.is_dir():
        choices |= {path.stem: str(path) for path in sorted(file.parent.glob("*.py"))}
    matches = difflib.get_close_matches(file.stem, choices, n=3)
    if matches:
        return f"Did you mean {', '.join(choices[name] for name in matches)}?"
    return (
        "Expected the path of a Python file, or one of the names "
        f"{', '.join(shipped())}"
    )


def listing() -> str:
    """The names, as lines of a command's help."""
    names = textwrap.fill(
        ", ".join(shipped()), 88, initial_indent="  ", subsequent_indent="  "
    )
    return f"\nCONFIG may also be the name of one of these:\n{names}\n"
