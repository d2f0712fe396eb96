"""Flags of a command: options of its own, and the fields of an experiment."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from fedjax_rec.experiment.fields import (
    Field,
    fields_of,
    find,
    read_value,
    with_kind,
    with_value,
)
from fedjax_rec.storage.errors import UserError

Flag = tuple[str, list[str]]
"""A flag without its dashes, and its values."""

_Options = TypeVar("_Options")
_Experiment = TypeVar("_Experiment")


def read_flags(args: Sequence[str]) -> list[Flag]:
    """Flags in order, with the words up to the next flag as their values.

    Raises:
        UserError: a word comes before any flag.

    >>> read_flags(["--rounds", "5", "--quiet", "--seed=-1"])
    [('rounds', ['5']), ('quiet', []), ('seed', ['-1'])]
    """
    flags: list[Flag] = []
    for arg in args:
        if arg.startswith("--") and len(arg) > 2:
            name, equals, value = arg[2:].partition("=")
            flags.append((name, [value] if equals else []))
        elif flags:
            flags[-1][1].append(arg)
        else:
            raise UserError(f"unexpected argument {arg!r}; fields are --FIELD VALUE")
    return flags


def apply_flags(
    flags: Sequence[Flag], options: _Options, experiment: _Experiment
) -> tuple[_Options, _Experiment]:
    """Options and an experiment with the values of flags.

    A flag that names a whole part (`--algorithm fedncf`) exchanges it for another kind
    at its defaults, before any other flag, so that the order does not matter.

    Args:
        flags: from `read_flags`.
        options: a dataclass with the command's own options. A tuple gathers the values
            of all flags of its name.
        experiment: a dataclass; its fields have dotted names.

    Raises:
        UserError: there is no such flag or field, or a value is not right.
    """
    own = fields_of(options)
    rest: list[Flag] = []
    gathered: dict[str, tuple] = {}
    for name, values in flags:
        field = name.replace("-", "_")
        if field not in own:
            rest.append((name, values))
            continue
        value = read_value(field, own[field].hint, values)
        if isinstance(value, tuple):
            value = gathered[field] = (*gathered.get(field, ()), *value)
        options = with_value(options, field, value)
    parts = sorted(rest, key=lambda flag: flag[0].count("."))
    for name, values in parts:
        fields = fields_of(experiment)
        field = fields.get(name.replace("-", "_"))
        if field is not None and field.slot is not None and len(values) == 1:
            experiment = with_kind(experiment, name.replace("-", "_"), values[0])
    for name, values in rest:
        fields = fields_of(experiment)
        path = find({**own, **fields}, name, values)
        if fields[path].slot is None:
            value = read_value(path, fields[path].hint, values)
            experiment = with_value(experiment, path, value)
        elif len(values) != 1:
            raise UserError(f"--{name}: expected the name of one kind")
    return options, experiment


def options_only(flags: Sequence[Flag], options: _Options) -> _Options:
    """Options of a command without an experiment."""
    return apply_flags(flags, options, _NoFields())[0]


@dataclasses.dataclass(frozen=True)
class _NoFields:
    pass


def known_fields(options: Any, experiment: Any) -> dict[str, Field]:
    """All flags that a command takes."""
    return {**fields_of(options), **fields_of(experiment)}
