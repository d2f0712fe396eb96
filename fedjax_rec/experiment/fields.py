"""Fields of an experiment by their dotted name: found, read from text, replaced."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.renamed import new_spelling
from fedjax_rec.storage.errors import UserError


class Field(NamedTuple):
    """A field of an experiment.

    Attributes:
        hint: its type.
        value: its value.
        slot: entry of `registry.SLOTS`, if it holds a part of several kinds.
    """

    hint: Any
    value: Any
    slot: str | None


def fields_of(settings: Any, prefix: str = "") -> dict[str, Field]:
    """All fields of a dataclass and of the dataclasses in it, by dotted name."""
    result: dict[str, Field] = {}
    try:
        hints = typing.get_type_hints(type(settings))
    except Exception:  # an annotation that only a type checker resolves
        hints = {}
    for field in dataclasses.fields(settings):
        path, value = f"{prefix}{field.name}", getattr(settings, field.name)
        slot = registry.slot_of(path)
        nested = dataclasses.is_dataclass(value)
        if slot is not None and not (nested or value is None):
            slot = None  # a field of another system with the same name
        if slot is not None or not nested:
            hint = hints.get(field.name, type(value))
            result[path] = Field(hint, value, slot)
        if nested:
            result |= fields_of(value, f"{path}.")
    return result


def find(fields: Mapping[str, Field], name: str, values: Sequence[str] = ()) -> str:
    """The name of a field as Python has it.

    Args:
        fields: all fields.
        name: for example `algorithm.client-lr`; dashes are underscores.
        values: given for it, for the message.

    Raises:
        UserError: there is no such field; the message has the new spelling of an old
            one, or the nearest names.
    """
    wanted = name.replace("-", "_")
    if wanted in fields:
        return wanted
    new = new_spelling(wanted, values)
    if new is not None:
        raise UserError(f"--{shown(name)} is now {new}")
    ends: dict[str, list[str]] = {}
    for full in fields:
        ends.setdefault(full.rpartition(".")[2], []).append(full)
    near = difflib.get_close_matches(wanted, fields, n=3, cutoff=0.6)
    for end in difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=2):
        near += ends[end]
    if not near:  # the fields of the part that was named, or else of the experiment
        part = wanted.partition(".")[0]
        near = [f for f in fields if f.startswith(f"{part}.")] or [
            f for f in fields if "." not in f
        ]
    hint = ", ".join(f"--{shown(n)}" for n in list(dict.fromkeys(near))[:3])
    raise UserError(f"there is no field --{shown(name)}. The nearest: {hint}")


def read_value(name: str, hint: Any, texts: Sequence[str]) -> Any:
    """A value of a field's type from the words of a command line.

    Raises:
        UserError: the words are no such value.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if len(texts) == 1 and texts[0].lower() == "none":
            return None
        return read_value(name, next(h for h in inner if h is not type(None)), texts)
    if origin in (tuple, list):
        return tuple(read_value(name, inner[0], [text]) for text in texts)
    if hint is bool and not texts:
        return True
    if len(texts) != 1:
        raise UserError(f"--{shown(name)}: expected one value, got {len(texts)}")
    (text,) = texts
    if origin is typing.Literal:
        if text in inner:
            return text
        near = difflib.get_close_matches(text, inner, n=1)
        also = f". Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--{shown(name)} {text}: expected one of {', '.join(inner)}{also}"
        )
    if hint is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"--{shown(name)} {text}: expected True or False")
    kinds = {int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint not in kinds:
        raise UserError(f"--{shown(name)} cannot be set by a flag; use a config file")
    try:
        return hint(text)
    except ValueError:
        raise UserError(f"--{shown(name)} {text}: expected {kinds[hint]}") from None


def read_kind(name: str, slot: str, text: str) -> Any:
    """A part of a kind, at its defaults; `a+b` is kind `a` with `then` of kind `b`.

    Raises:
        UserError: there is no such kind.
    """
    if text.lower() == "none" and name.rpartition(".")[2] in registry.OPTIONAL:
        return None
    kind, plus, rest = text.partition("+")
    try:
        part = registry.load(slot, kind)()
    except KeyError:
        kinds = list(registry.SLOTS[slot])
        new = new_spelling(name, [text])
        near = difflib.get_close_matches(text.lower(), kinds, n=1, cutoff=0.4)
        hint = f". Did you mean {near[0]}?" if near else ""
        hint = f". It is now {new}" if new is not None else hint
        raise UserError(
            f"--{shown(name)} {text}: expected one of {', '.join(kinds)}{hint}"
        ) from None
    if not plus:
        return part
    then = registry.slot_of(f"{name}.then")
    if then is None or not hasattr(part, "then"):
        raise UserError(f"--{shown(name)} {text}: {kind} is not followed by a kind")
    return with_value(part, "then", read_kind(f"{name}.then", then, rest))


def with_value(settings: Any, name: str, value: Any) -> Any:
    """Settings with one field replaced, by its dotted name.

    Raises:
        UserError: a part on the way has no such field, or refuses the value.
    """
    field, _, rest = name.partition(".")
    if not any(f.name == field for f in dataclasses.fields(settings)):
        raise UserError(
            f"{type(settings).__name__} has no field {field!r}: --{shown(name)} cannot "
            "be set together with the other values"
        )
    if rest:
        owner = getattr(settings, field)
        if not dataclasses.is_dataclass(owner):
            raise UserError(f"{field} is none, so it has no field {rest!r}")
        value = with_value(owner, rest, value)
    try:
        return dataclasses.replace(settings, **{field: value})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{field}: {error}" if not rest else str(error)) from error


def with_kind(settings: Any, name: str, text: str) -> Any:
    """Settings with a part exchanged for another kind, at its defaults.

    A part of that kind stays as it is.
    """
    slot = registry.slot_of(name)
    assert slot is not None
    part = read_kind(name, slot, text)
    current = settings
    for field in name.split("."):
        current = getattr(current, field)
    if registry.name_of(part) == registry.name_of(current):
        return settings
    return with_value(settings, name, part)


def with_values(experiment: Any, values: Mapping[str, Any]) -> Any:
    """An experiment with some fields replaced; kinds before their fields.

    Args:
        experiment: the base.
        values: by names of `fields_of`; whole parts by the name of their kind.

    Raises:
        UserError: the experiment refuses them.
    """
    try:
        for name, value in sorted(values.items(), key=lambda item: item[0].count(".")):
            if registry.slot_of(name) is not None and isinstance(value, str):
                experiment = with_kind(experiment, name, value)
            else:
                experiment = with_value(experiment, name, value)
    except ValueError as error:
        words = ", ".join(f"{shown(n)}={text_of(v)}" for n, v in values.items())
        raise UserError(f"{words}: {error}") from error
    return experiment


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """A field in a run's `config.json`; for a part, the name of its kind."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        location = registry.locations().get(value["type"], "")
        for kinds in registry.SLOTS.values():
            for kind, where in kinds.items():
                if where == location:
                    return kind
        return value["type"]
    return value


def shown(name: str) -> str:
    """A field as the command line has it."""
    return name.replace("_", "-")


def text_of(value: Any) -> str:
    """A value as the command line has it.

    >>> text_of(0.1), text_of(1e-05), text_of(3)
    ('0.1', '1e-05', '3')
    """
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    if dataclasses.is_dataclass(value) or value is None:
        return registry.name_of(value)
    if isinstance(value, tuple):
        return " ".join(map(text_of, value))
    return str(value)
