"""Experiments from a config file."""

import contextlib
import dataclasses
import difflib
import re
import traceback
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fedjax_rec
from fedjax_rec.cli.config_names import config_file, near
from fedjax_rec.data.folders import check_folder
from fedjax_rec.data.settings import CsvData, FileData
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declared
from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.experiment.renamed import new_spelling
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.storage.errors import UserError


class Config(NamedTuple):
    """The content of a config file.

    Attributes:
        experiments: experiments with distinct names; most files have one.
        grid: default grid of `sweep`, as `FIELD=VALUES`.
        doc: docstring of the file.
    """

    experiments: tuple[Experiment, ...]
    grid: tuple[str, ...]
    doc: str


def named_config(args: list[str]) -> tuple[str, list[str]]:
    """The config among arguments, and the other arguments.

    It is the first of them, or else a path that ends in `.py` and is no plug-in.

    Returns:
        An empty string if there is none.
    """
    if args and not args[0].startswith("-"):
        return args[0], args[1:]
    pairs = zip(["", *args], args, strict=False)
    paths = [arg for last, arg in pairs if arg.endswith(".py") and last != "--plugin"]
    config = next(iter(paths), "")
    others = list(args)
    if config:
        others.remove(config)
    return config, others


def load_config(config: str) -> tuple[Experiment, str]:
    """The only experiment of a config file, and the file's docstring.

    Args:
        config: a Python file with a function `get_config()` that returns an
            `Experiment`, or the name of a config of the package.

    Raises:
        UserError: there is no such file, or it does not return one experiment.
    """
    experiments, _, doc = load_configs(config)
    first, *others = experiments
    if others:
        names = ", ".join(experiment.name for experiment in experiments)
        raise UserError(
            f"{config} has {len(experiments)} experiments ({names}), and one was "
            f"expected. Run them all by: fedjax-rec sweep {config}"
        )
    return first, doc


def load_configs(config: str) -> Config:
    """The content of a config file, for `sweep`.

    Args:
        config: a Python file with a function `get_config()` that returns an
            `Experiment` or several, and optionally `get_grid()`, a tuple of
            `FIELD=VALUES`; or the name of a config of the package.

    Raises:
        UserError: there is no such file, or it returns something else.
    """
    file = config_file(config)
    if not file.is_file():
        raise UserError(f"no config {config}. {near(config)}")
    try:
        module = load_module(file)
    except Exception as error:
        raise UserError(_located(file, error)) from error
    if not callable(getattr(module, "get_config", None)):
        raise UserError(
            f"{file} defines no get_config(); expected a function of that name that "
            "returns a fedjax_rec.Experiment"
        )
    try:
        result = module.get_config()
        grid = tuple(getattr(module, "get_grid", tuple)())
    except Exception as error:
        raise UserError(_located(file, error)) from error
    experiments = list(result) if isinstance(result, tuple | list) else [result]
    wrong = [e for e in experiments if not isinstance(e, Experiment)]
    if wrong or not experiments:
        returned = type(wrong[0] if wrong else result).__name__
        raise UserError(
            f"get_config() of {file} returned a {returned}; expected "
            "a fedjax_rec.Experiment, or a tuple of them for a sweep"
        )
    if len({experiment.name for experiment in experiments}) < len(experiments):
        raise UserError(
            f"get_config() of {file} returned several experiments with one name; "
            "expected distinct names"
        )
    return Config(tuple(experiments), grid, (module.__doc__ or "").strip())


def load_plugins(flags: Iterable[tuple[str, list[str]]]) -> None:
    """Adds the kinds of the files after `--plugin`.

    Args:
        flags: names and values; flags of other names are ignored.

    Raises:
        UserError: a file is missing, fails, or declares no kind.
    """
    for name, values in flags:
        if name != "plugin":
            continue
        if not values:
            raise UserError("--plugin: expected a Python file")
        for value in values:
            if not declared(load_file(Path(value), f"--plugin {value}")):
                raise UserError(
                    f"--plugin {value} declares no kind: decorate a class with "
                    '@fedjax_rec.kind("codec"), for example'
                )


def load_file(file: Path, subject: str) -> types.ModuleType:
    """Executes a user's file, and adds its kinds.

    Args:
        file: a Python file.
        subject: begins the message if there is no such file.

    Raises:
        UserError: the file is missing or fails.
    """
    if not file.is_file():
        raise UserError(f"{subject}: there is no such file")
    try:
        return load_module(file)
    except Exception as error:
        raise UserError(_located(file, error)) from error


def _located(file: Path, error: Exception) -> str:
    line = next(
        (
            frame.lineno
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if Path(frame.filename).resolve() == file.resolve()
        ),
        getattr(error, "lineno", None),
    )
    where = f"{file}, line {line}" if line else str(file)
    return f"{where}: {type(error).__name__}: {error}{_hint(str(error))}"


def _hint(message: str) -> str:
    """Valid names in place of one that a config file has wrong."""
    name = re.search(r"cannot import name '(\w+)' from 'fedjax_rec'", message)
    call = re.search(r"(\w+)\.__init__\(\) got an unexpected .* '(\w+)'", message)
    if name:
        matches = difflib.get_close_matches(name[1], dir(fedjax_rec), n=3)
        return f". Did you mean {', '.join(matches)}?" if matches else ""
    if not call or call[1] not in dir(fedjax_rec):
        return ""
    location = registry.locations().get(call[1])
    slots = [s for s, kinds in registry.SLOTS.items() if location in kinds.values()]
    if new := new_spelling(".".join([*slots[:1], call[2]])):
        return f". As a flag it is now {new}"
    names = [field.name for field in dataclasses.fields(getattr(fedjax_rec, call[1]))]
    if matches := difflib.get_close_matches(call[2], names, n=3):
        return f". Did you mean {', '.join(matches)}?"
    return f". It has {', '.join(names)}"


def check_data(data: Any, prefix: str = "--data.") -> None:
    """Checks that data have files to read.

    Args:
        data: settings of the data.
        prefix: beginning of their flags.

    Raises:
        UserError: there are none.
    """
    with user_errors(prefix):
        if isinstance(data, FileData):
            check_folder(data.source, data.dir, data.cache, data.download)
        elif isinstance(data, CsvData):
            check_folder("csv", data.dir)


@contextlib.contextmanager
def user_errors(prefix: str = "--data.", subject: str = "") -> Iterator[None]:
    """Converts a `ValueError` of the block into a `UserError` about flags.

    Args:
        prefix: beginning of the flags of the data.
        subject: precedes the message.
    """
    try:
        yield
    except ValueError as error:
        raise UserError(f"{subject}{in_flags(error, prefix)}") from error


def in_flags(error: ValueError, prefix: str = "--data.") -> str:
    """The message of an error in terms of command-line flags.

    Args:
        error: has names of Python arguments.
        prefix: beginning of the flags of the data.
    """
    message = str(error).replace("download=True", f"{prefix}download")
    message = message.replace("protocol.selection='last'", "--protocol.selection last")
    return message.replace("Pass dir=", f"Pass {prefix}dir DIR").replace(
        "Pass another cache=", f"Pass another {prefix}cache"
    )
