"""An experiment from its file, and from what the command line changes in it."""

import dataclasses
import difflib
import importlib.util
import sys
import traceback
import types
import warnings
from pathlib import Path
from typing import NamedTuple, TypeVar

import tyro

from fedjax_rec.experiment.build import Experiment
from fedjax_rec.experiment.registry import CHOICES
from fedjax_rec.storage.errors import UserError

_Options = TypeVar("_Options")


class Config(NamedTuple):
    """What a config file says.

    Attributes:
        experiments: of distinct names; most files hold one.
        grid: what `sweep` tries where the command line names no such field, as
            `FIELD=VALUES`.
        doc: the file's docstring.
    """

    experiments: tuple[Experiment, ...]
    grid: tuple[str, ...]
    doc: str


def load_config(path: str) -> tuple[Experiment, str]:
    """The only experiment of a config file, and the file's docstring.

    Args:
        path: a Python file whose `get_config()` returns an `Experiment`.

    Raises:
        UserError: there is no such file, or it does not return one.
    """
    experiments, _, doc = load_configs(path)
    first, *others = experiments
    if others:
        names = ", ".join(experiment.name for experiment in experiments)
        raise UserError(
            f"{path} holds {len(experiments)} experiments ({names}), and one was "
            f"expected. Run them all by: fedjax-rec sweep {path}"
        )
    return first, doc


def load_configs(path: str) -> Config:
    """All that a config file says, for `sweep`.

    Args:
        path: a Python file whose `get_config()` returns an `Experiment` or several, and
            whose `get_grid()`, if there is one, a tuple of `FIELD=VALUES`.

    Raises:
        UserError: there is no such file, or it returns something else.
    """
    file = Path(path)
    if not file.is_file():
        raise UserError(_missing(file))
    module = _execute(file)
    if not callable(getattr(module, "get_config", None)):
        raise UserError(
            f"{file} defines no get_config(); expected a function of that name that "
            "returns a fedjax_rec.Experiment (see configs/quickstart.py)"
        )
    try:
        found = module.get_config()
        grid = tuple(getattr(module, "get_grid", tuple)())
    except Exception as error:
        raise UserError(_told(file, error)) from error
    experiments = list(found) if isinstance(found, tuple | list) else [found]
    wrong = [e for e in experiments if not isinstance(e, Experiment)]
    if wrong or not experiments:
        returned = type(wrong[0] if wrong else found).__name__
        raise UserError(
            f"get_config() of {file} returned a {returned}; expected "
            "a fedjax_rec.Experiment, or a tuple of them for a sweep"
        )
    if len({experiment.name for experiment in experiments}) < len(experiments):
        raise UserError(
            f"get_config() of {file} returned experiments of one name; expected a name "
            "of its own for each"
        )
    return Config(tuple(experiments), grid, (module.__doc__ or "").strip())


def override(
    kind: type[_Options], default: _Options, args: list[str], *, prog: str, doc: str
) -> _Options:
    """`default` with the fields that `args` name replaced, checked by type.

    Misspelt fields and values of a wrong type end the process with status 2, the
    nearest fields and their help; so does `--help`, with status 0.

    Args:
        kind: the dataclass.
        default: its values.
        args: such as `["--algorithm.client-lr", "0.3"]`.
        prog: what was called, for messages.
        doc: heads the help.
    """
    with warnings.catch_warnings():
        # A config may bring data or an algorithm of its own class.
        warnings.filterwarnings("ignore", message=".*does not match any type in")
        return tyro.cli(
            kind,
            default=default,
            args=args,
            prog=prog,
            description=doc,
            config=(
                # The kind of data and algorithm is chosen by `switch`, so that fields
                # have one name each and the order of arguments does not matter.
                tyro.conf.AvoidSubcommands,
                tyro.conf.FlagCreatePairsOff,
            ),
        )


def switch(experiment: Experiment, args: list[str]) -> tuple[Experiment, list[str]]:
    """Exchanges whole parts: `--algorithm FedNCF` and `--data FileData`.

    Args:
        experiment: the config's.
        args: all arguments.

    Returns:
        The experiment, with each part that was named at its defaults, and the other
        arguments.

    Raises:
        UserError: no part is called that.
    """
    rest, index = [], 0
    while index < len(args):
        flag, equals, value = args[index].partition("=")
        field = flag.removeprefix("--")
        index += 1
        if field not in CHOICES or not flag.startswith("--"):
            rest.append(args[index - 1])
            continue
        if not equals:
            value = args[index] if index < len(args) else ""
            index += 1
        choices = {name.lower(): kind for name, kind in CHOICES[field].items()}
        if value.lower() not in choices:
            near = difflib.get_close_matches(value.lower(), choices, n=1, cutoff=0.4)
            hint = f". Did you mean {choices[near[0]].__name__}?" if near else ""
            raise UserError(
                f"--{field} {value}: expected one of {', '.join(CHOICES[field])}{hint}"
            )
        part = choices[value.lower()]()
        if type(part) is not type(getattr(experiment, field)):
            experiment = dataclasses.replace(experiment, **{field: part})
    return experiment, rest


def choices_help() -> str:
    """How `switch` is used, for the help."""
    return "\n".join(
        f"--{field} {{{','.join(kinds)}}} exchanges the whole {field} for another, at "
        "its defaults."
        for field, kinds in CHOICES.items()
    )


def _execute(file: Path) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file} is no Python file; expected one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses defined in the file look their module up by name.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(_told(file, error)) from error
    return module


def _told(file: Path, error: Exception) -> str:
    line = next(
        (
            frame.lineno
            for frame in reversed(traceback.extract_tb(error.__traceback__))
            if Path(frame.filename).resolve() == file.resolve()
        ),
        getattr(error, "lineno", None),
    )
    where = f"{file}, line {line}" if line else str(file)
    return f"{where}: {type(error).__name__}: {error}"


def _missing(file: Path) -> str:
    folder = file.parent if file.parent.is_dir() else Path("configs")
    names = {p.name: p for p in sorted(folder.glob("*.py"))} if folder.is_dir() else {}
    wanted = file.name if file.suffix == ".py" else f"{file.name}.py"
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
    hint = f". Did you mean {', '.join(str(names[n]) for n in near)}?" if near else ""
    if names and not near:
        hint = f". {folder} holds {', '.join(names)}"
    return f"no config file {file}{hint}"


def value_error(error: ValueError, prefix: str = "--data.") -> str:
    """What loading or building complained about, in the words of the command line.

    Args:
        error: names arguments as Python has them.
        prefix: of the flags of the data.
    """
    message = str(error).replace("download=True", f"{prefix}download")
    message = message.replace("protocol.selection='last'", "--protocol.selection last")
    return message.replace("Pass dir=", f"Pass {prefix}dir DIR").replace(
        "Pass another cache=", f"Pass another {prefix}cache"
    )
