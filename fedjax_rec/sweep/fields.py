"""Fields of an experiment by their dotted name: found, read from text, replaced."""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from fedjax_rec.experiment.build import Experiment, check
from fedjax_rec.experiment.registry import CHOICES
from fedjax_rec.storage.errors import UserError


def field_type(experiment: Experiment, name: str) -> tuple[str, Any]:
    """The field that `name` means, with its type.

    Args:
        experiment: whose fields.
        name: such as `algorithm.client-lr`; dashes are underscores.

    Returns:
        The name as Python has it, and the annotation; the kinds by name for a part
        that comes in several kinds (`algorithm`, `data`).

    Raises:
        UserError: there is no such field; the nearest ones are told.
    """
    wanted = name.replace("-", "_")
    known = _fields(experiment)
    if wanted in known:
        return wanted, known[wanted]
    ends = {full.rpartition(".")[2]: full for full in known}
    near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.6)
    near += difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=2, cutoff=0.7)
    found = dict.fromkeys(ends.get(n, n) for n in near)
    hint = ", ".join(shown(n) for n in list(found)[:3])
    kind = type(experiment.algorithm).__name__
    raise UserError(
        f"the experiment ({kind}) has no field {name!r}"
        + (f". Did you mean {hint}?" if hint else "; see --help for all of them")
    )


def read_value(name: str, hint: Any, text: str) -> Any:
    """`text` as a value of the field's type.

    Raises:
        UserError: it is none; what was expected is told.
    """
    if isinstance(hint, dict):
        kinds = {kind.lower(): kind for kind in hint}
        if text.lower() in kinds:
            return kinds[text.lower()]
        raise UserError(f"{shown(name)}={text}: expected one of {', '.join(hint)}")
    if typing.get_origin(hint) is typing.Literal:
        options = typing.get_args(hint)
        if text in options:
            return text
        near = difflib.get_close_matches(text, options, n=1)
        also = f". Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{shown(name)}={text}: expected one of {', '.join(options)}{also}"
        )
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if text == "None" else read_value(name, inner[0], text)
    if hint is bool:
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        raise UserError(f"{shown(name)}={text}: expected True or False")
    if hint not in (int, float, str):
        raise UserError(
            f"{shown(name)} is no single value, so it cannot be swept; sweep it by "
            "configs of its own"
        )
    try:
        return hint(text)
    except ValueError:
        kind = {int: "a whole number", float: "a number"}[hint]
        raise UserError(f"{shown(name)}={text}: expected {kind}") from None


def with_values(experiment: Experiment, values: Mapping[str, Any]) -> Experiment:
    """The experiment with some fields replaced, checked as a whole.

    Args:
        experiment: the base.
        values: by the names `field_type` gives; whole parts by their kind's name.

    Raises:
        UserError: the experiment refuses them, and why.
    """
    try:
        for name, value in sorted(values.items(), key=lambda item: "." in item[0]):
            if name in CHOICES:
                kind = CHOICES[name][value]
                if type(getattr(experiment, name)) is not kind:
                    experiment = dataclasses.replace(experiment, **{name: kind()})
                continue
            part, dot, field = name.partition(".")
            if dot:
                owner = getattr(experiment, part)
                if not hasattr(owner, field):
                    raise UserError(
                        f"{type(owner).__name__} has no field {field!r}: "
                        f"{shown(name)} cannot be swept together with {part}"
                    )
                value = dataclasses.replace(owner, **{field: value})
            experiment = dataclasses.replace(experiment, **{part: value})
        check(experiment)
    except UserError:
        raise
    except ValueError as error:
        told = ", ".join(f"{shown(n)}={text_of(v)}" for n, v in values.items())
        raise UserError(f"{told}: {error}") from error
    return experiment


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """What a point's `config.json` says of a field; kinds by their name."""
    found: Any = config
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found.get("type") if isinstance(found, Mapping) else found


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
    return str(value)


def _fields(experiment: Experiment) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(Experiment).items():
        value = getattr(experiment, name)
        if name in CHOICES:
            found[name] = CHOICES[name]
        if not dataclasses.is_dataclass(value):
            found[name] = hint
            continue
        for inner, inner_hint in typing.get_type_hints(type(value)).items():
            found[f"{name}.{inner}"] = inner_hint
    found.pop("name")
    return found
