"""Fields of an experiment by their dotted name: read from text, replaced."""

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
        nested = dataclasses.is_dataclass(value)
        # A plain field may have the name of a slot, such as `users` of FedAvg.
        slot = registry.slot_of(path) if nested or value is None else None
        if slot is not None or not nested:
            result[path] = Field(hints.get(field.name, type(value)), value, slot)
        if nested:
            result |= fields_of(value, f"{path}.")
    return result


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
        if inner[0] in (int, float):
            texts = [part for text in texts for part in text.split(",")]
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


def read_kind(name: str, field: Field, text: str) -> Any:
    """A part of the kind that a text names.

    Args:
        name: dotted name of the field.
        field: the field. If its part is of that kind already, it keeps its values.
        text: name of a kind; `none`; or `a+b`, which is kind `a` with `then` of kind
            `b`. Without `+b`, `then` is the default of kind `a`.

    Raises:
        UserError: there is no such kind.
    """
    if text.lower() == "none" and field.slot in registry.OPTIONAL:
        return None
    kind, plus, following = text.partition("+")
    part = field.value
    if kind.lower() != type(part).__name__.lower():
        cls = _load(name, field, kind)
        part = part if type(part) is cls else cls()
    then = fields_of(part, f"{name}.").get(f"{name}.then")
    if then is not None and then.slot is not None:
        value = type(part)().then
        if plus:
            value = read_kind(f"{name}.then", then, following)
        return part if value == then.value else with_values(part, {"then": value})
    if plus:
        raise UserError(f"--{shown(name)} {text}: {kind} is not followed by a kind")
    return part


def _load(name: str, field: Field, kind: str) -> type:
    assert field.slot is not None
    try:
        return registry.load(field.slot, kind)
    except KeyError:
        kinds = list(registry.SLOTS[field.slot])
        near = difflib.get_close_matches(kind.lower(), kinds, n=1, cutoff=0.4)
        hint = f". Did you mean {near[0]}?" if near else ""
        if (new := new_spelling(name, [kind])) is not None:
            hint = f". It is now {new}"
        if not near:
            hint = hint or ". A kind of your own needs --plugin FILE"
        raise UserError(
            f"--{shown(name)} {kind}: expected one of {', '.join(kinds)}{hint}"
        ) from None


def with_values(settings: Any, values: Mapping[str, Any]) -> Any:
    """Settings with some fields replaced; kinds before their fields.

    All fields of one part change at once, so that a part sees no mixture of old and new
    values.

    Args:
        settings: a dataclass, such as an experiment.
        values: by names of `fields_of`; parts also by the name of their kind.

    Raises:
        UserError: a part refuses the values.
    """
    other = {}
    for name, value in sorted(values.items(), key=lambda item: item[0].count(".")):
        field = fields_of(settings).get(name)
        if field is not None and field.slot is not None and isinstance(value, str):
            settings = _replaced(settings, {name: read_kind(name, field, value)})
        else:
            other[name] = value
    return _replaced(settings, other)


def _replaced(settings: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    changes: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        field, dot, tail = name.partition(".")
        if not hasattr(settings, field):
            raise UserError(
                f"{type(settings).__name__} has no field {field!r}: "
                f"{shown(prefix + name)} cannot be set together with the other values"
            )
        if dot:
            inner.setdefault(field, {})[tail] = value
        else:
            changes[field] = value
    for field, nested in inner.items():
        part = changes.get(field, getattr(settings, field))
        if not dataclasses.is_dataclass(part):
            raise UserError(
                f"{prefix}{field} is none, so it has no {next(iter(nested))}"
            )
        changes[field] = _replaced(part, nested, f"{prefix}{field}.")
    try:
        return dataclasses.replace(settings, **changes)
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        words = (f"{shown(prefix + name)}={text_of(v)}" for name, v in values.items())
        raise UserError(f"{', '.join(words)}: {error}") from error


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """A field in a run's `config.json`; for a part, the name of its kind."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        location = registry.locations().get(value["type"], "")
        kind = registry.kinds().get(location, value["type"])
        then = value.get("then")
        return kind if then is None else f"{kind}+{value_of(value, 'then')}"
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
        return " ".join(getattr(v, "name", None) or text_of(v) for v in value)
    return str(value)
