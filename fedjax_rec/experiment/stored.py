"""An experiment from a run's `config.json`."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.plain import differences, plain
from fedjax_rec.storage.errors import UserError


def stored_experiment(config: Mapping[str, Any], folder: str) -> Experiment:
    """The experiment with the `plain` values `config`.

    Args:
        config: content of `config.json`.
        folder: folder of the run, for messages.

    Raises:
        UserError: it is not an experiment of this version of fedjax_rec.
    """
    advice = (
        "Resume it with the version that began it (versions.json), or, if its config "
        f"file defines a class of its own: fedjax-rec train CONFIG --resume {folder}"
    )
    try:
        experiment = _value(Experiment, config, "")
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: {error}. {advice}") from error
    changes = differences(dict(config), plain(experiment))
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise UserError(
            f"{folder}/config.json has other fields than an experiment:\n{lines}\n"
            f"{advice}"
        )
    return experiment


def _value(hint: Any, value: Any, name: str) -> Any:
    """`value` with the type `hint`."""
    if isinstance(value, Mapping) and "type" in value:
        return _dataclass(_kind(hint, value["type"], name), value, name)
    if isinstance(value, list):
        kind = next((h for h in _choices(hint) if _origin(h) in (tuple, list)), tuple)
        inner = [arg for arg in typing.get_args(kind) if arg is not Ellipsis]
        items = [_value(inner[0] if inner else Any, v, name) for v in value]
        return _origin(kind)(items)
    return value


def _kind(hint: Any, name: str, path: str) -> type:
    """The class of a stored part: that of the hint, or one in the registry."""
    for choice in _choices(hint):
        if isinstance(choice, type) and choice.__name__ == name:
            return choice
    location = registry.locations().get(name)
    if location is None:
        raise ValueError(f"{path or 'it'} is a {name}, which is no kind of a part")
    return registry.load_class(location)


def _dataclass(kind: type, value: Mapping[str, Any], name: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(value.keys() - fields - {"type"})
    if unknown:
        raise ValueError(f"{name or 'it'} has no field {', '.join(unknown)}")
    return kind(
        **{
            field: _value(hints[field], inner, f"{name}.{field}".strip("."))
            for field, inner in value.items()
            if field != "type"
        }
    )


def _choices(hint: Any) -> list[Any]:
    """The members of a union, or the type itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return list(typing.get_args(hint))
    return [hint]


def _origin(hint: Any) -> Any:
    return typing.get_origin(hint) or hint
