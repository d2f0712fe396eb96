"""Flags of a command: options of its own, and the fields of an experiment."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from fedjax_rec.experiment.fields import Field, fields_of, read_value, with_values
from fedjax_rec.experiment.names import find
from fedjax_rec.storage.errors import UserError

Flag = tuple[str, list[str]]
"""A flag without its dashes, and its values."""

_Options = TypeVar("_Options")
_Experiment = TypeVar("_Experiment")


class Arguments(NamedTuple):
    """Arguments of a command.

    Attributes:
        flags: flags in order, with the words up to the next flag as their values.
        help: words after `--help`, or `None` without it.
    """

    flags: list[Flag]
    help: list[str] | None


def read_arguments(args: Sequence[str]) -> Arguments:
    """The flags among words of a command line, and a request for help.

    Raises:
        UserError: a word comes before any flag.

    >>> read_arguments(["--rounds", "5", "--quiet", "--seed=-1"]).flags
    [('rounds', ['5']), ('quiet', []), ('seed', ['-1'])]
    >>> read_arguments(["--help", "codec"]).help
    ['codec']
    """
    flags: list[Flag] = []
    for index, arg in enumerate(args):
        if arg in ("-h", "--help"):
            return Arguments(flags, [a for a in args[index + 1 :] if a[:1] != "-"])
        if arg.startswith("--") and len(arg) > 2:
            name, equals, value = arg[2:].partition("=")
            flags.append((name, [value] if equals else []))
        elif flags:
            flags[-1][1].append(arg)
        else:
            raise UserError(f"unexpected argument {arg!r}; fields are --FIELD VALUE")
    return Arguments(flags, None)


def usage(
    text: str,
    args: Sequence[str],
    expected: str = "a config, such as quickstart or path/to/mine.py",
) -> int:
    """Prints a command's help, as its arguments are not complete.

    Args:
        text: the help.
        args: arguments of the command.
        expected: the arguments that are missing.

    Returns:
        The exit status.

    Raises:
        UserError: there are arguments, and they ask for no help.
    """
    asked = any(arg in ("-h", "--help") for arg in args)
    if args and not asked:
        raise UserError(f"expected {expected}")
    print(text, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def apply_flags(
    flags: Sequence[Flag], options: _Options, experiment: _Experiment
) -> tuple[_Options, _Experiment]:
    """Options and an experiment with the values of flags.

    A flag that names a whole part (`--algorithm fedncf`) exchanges it for another kind
    at its defaults, before any other flag, so that the order does not matter.

    Args:
        flags: from `read_arguments`.
        options: a dataclass with the command's own options. A tuple gathers the values
            of all flags of its name.
        experiment: a dataclass; its fields have dotted names.

    Raises:
        UserError: there is no such flag or field, a value is not right, or a flag is
            repeated with another value.
    """
    _check_repeated(flags, fields_of(options))
    for name, values in sorted(flags, key=lambda flag: flag[0].count(".")):
        kind = name.replace("-", "_")
        if any(_is_part(owner, kind) for owner in (options, experiment)):
            if len(values) != 1:
                raise UserError(f"--{name}: expected the name of one kind")
            if _is_part(options, kind):
                options = with_values(options, {kind: values[0]})
            else:
                experiment = with_values(experiment, {kind: values[0]})
    defaults, fields = fields_of(options), fields_of(experiment)
    chosen, changes = {}, {}
    for name, values in flags:
        path = find({**fields, **defaults}, name, values)
        field = defaults.get(path) or fields[path]
        if field.slot is not None:
            continue
        value = read_value(path, field.hint, values)
        if path not in defaults:
            changes[path] = value
        elif isinstance(value, tuple):
            chosen[path] = (*chosen.get(path, ()), *value)
        else:
            chosen[path] = value
    return with_values(options, chosen), with_values(experiment, changes)


def read_options(flags: Sequence[Flag], options: _Options) -> _Options:
    """Options of a command without an experiment, with the values of flags.

    Raises:
        UserError: there is no such flag, or a value is not right.
    """
    return apply_flags(flags, options, _NoFields())[0]


@dataclasses.dataclass(frozen=True)
class _NoFields:
    pass


def _check_repeated(flags: Sequence[Flag], options: Mapping[str, Field]) -> None:
    """Raises if a flag that takes one value is repeated with another value."""
    earlier: dict[str, Flag] = {}
    for name, values in flags:
        path = name.replace("-", "_")
        if path in options and isinstance(options[path].value, tuple):
            continue
        first_name, first_values = earlier.setdefault(path, (name, values))
        if values != first_values:
            first, second = (
                " ".join([f"--{flag}", *words])
                for flag, words in ((first_name, first_values), (name, values))
            )
            raise UserError(f"{first} and {second} contradict: expected one of them")


def _is_part(settings: object, path: str) -> bool:
    field = fields_of(settings).get(path)
    return field is not None and field.slot is not None
