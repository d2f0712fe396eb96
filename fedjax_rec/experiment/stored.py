"""An experiment from a run's `config.json`."""

import dataclasses
import operator
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_module import load_module
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.folder import Run
from fedjax_rec.runs.plain import differences, plain
from fedjax_rec.storage.errors import UserError


def stored_experiment(
    config: Mapping[str, Any],
    folder: str,
    modules: Iterable[types.ModuleType] = (),
    files: Iterable[str] = (),
) -> Experiment:
    """The experiment with the `plain` values `config`.

    Args:
        config: content of `config.json`.
        folder: folder of the run, for messages.
        modules: modules whose classes the config may name, in addition to this
            package's.
        files: files that defined parts of the run, for classes that no module has.

    Raises:
        UserError: it is not an experiment of this version of fedjax_rec.
    """
    advice = (
        "Resume it with the version that began it (versions.json), or, if its config "
        f"file defines a class of its own: fedjax-rec train CONFIG --resume {folder}"
    )
    try:
        own = _classes(modules)
        if not _own_parts(config) <= own.keys():
            own |= _classes(_loaded(files, folder))
        experiment = _value(Experiment, config, "", own)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder}/config.json: {error}. {advice}") from error
    changes = differences(dict(config), plain(experiment))
    edited = [line for line in changes if ".defined_in." in line]
    if edited and edited == changes:
        parts = ", ".join(line.partition(".defined_in")[0] for line in edited)
        raise UserError(
            f"{folder} began with another version of the code that defines {parts}: a "
            "run continues with its own. Restore the file, or start a run in another "
            "--output"
        )
    if changes:
        lines = "\n".join(f"  {line}" for line in changes)
        raise UserError(
            f"{folder}/config.json has other fields than an experiment:\n{lines}\n"
            f"{advice}"
        )
    return experiment


_PATHS = re.compile(r"(.*_)?(dir|file|folder|path)|notes|order|trace")
"""Names of the fields that hold a path."""


def located(experiment: Experiment, run: Run | None) -> Experiment:
    """The experiment with its relative paths taken from the folder it began in.

    A run can then be read from any folder, and its config has the paths as they were
    given. A path that is gone from there stays as it is.

    Args:
        experiment: the experiment of a run.
        run: the run as read from its folder; `None` for one that begins.
    """
    folder = run and run.versions.get("working_folder")
    return experiment if folder is None else _located(experiment, Path(folder))


def _located(value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        items = [_located(item, folder) for item in value]
        same = all(map(operator.is_, items, value))
        return value if same else tuple(items)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for field in dataclasses.fields(value):
        old = getattr(value, field.name)
        if isinstance(old, str) and _PATHS.fullmatch(field.name):
            path = folder / Path(old).expanduser()
            new = str(path) if old and path.exists() else old
        else:
            new = _located(old, folder)
        if new is not old and field.init:
            changed[field.name] = new
    return dataclasses.replace(value, **changed) if changed else value


def restored(cls: type, config: Mapping[str, Any]) -> Any:
    """A part with the `plain` values `config`.

    Args:
        cls: its class.
        config: its entry of `config.json`.

    Raises:
        TypeError: a value does not have the type of its field.
        ValueError: `config` has other fields than the class.
    """
    return _value(cls, config, "", {cls.__name__: cls})


def _classes(modules: Iterable[types.ModuleType]) -> dict[str, type]:
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and dataclasses.is_dataclass(value)
    }


def _own_parts(config: Any) -> set[str]:
    """Names of the classes from users' files."""
    if isinstance(config, Mapping):
        name = {config["type"]} if "defined_in" in config else set()
        return name.union(*map(_own_parts, config.values()))
    return set().union(*map(_own_parts, config)) if isinstance(config, list) else set()


def _loaded(files: Iterable[str], folder: str) -> Iterator[types.ModuleType]:
    for file in files:
        if not Path(file).is_file():
            raise UserError(
                f"{folder} has a part that {file} defined, and this file is gone. Name "
                f"the file that defines it: fedjax-rec train CONFIG --resume {folder}"
            )
        yield load_module(Path(file))


def _value(hint: Any, value: Any, name: str, own: Mapping[str, type]) -> Any:
    """`value` with the type `hint`."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    choices = list(typing.get_args(hint)) if union else [hint]
    if isinstance(value, Mapping) and "type" in value:
        cls = _class(choices, value["type"], name, own)
        return _dataclass(cls, value, name, own)
    if isinstance(value, list):
        lists = [h for h in choices if typing.get_origin(h) in (tuple, list)]
        kind = lists[0] if lists else tuple[Any, ...]
        items = [_value(typing.get_args(kind)[0], item, name, own) for item in value]
        return (typing.get_origin(kind) or tuple)(items)
    return value


def _class(choices: list[Any], name: str, path: str, own: Mapping[str, type]) -> type:
    """The class of a stored part: of its field, the user's own, or registered."""
    for choice in choices:
        if isinstance(choice, type) and choice.__name__ == name:
            return choice
    if name in own:
        return own[name]
    if (location := registry.locations().get(name)) is None:
        raise ValueError(f"{path or 'it'} is a {name}, which is no kind of a part")
    return registry.load_class(location)


def _dataclass(
    cls: type, value: Mapping[str, Any], name: str, own: Mapping[str, type]
) -> Any:
    hints = typing.get_type_hints(cls)
    recorded = ("type", "defined_in")
    stored = {field: inner for field, inner in value.items() if field not in recorded}
    unknown = sorted(stored.keys() - {field.name for field in dataclasses.fields(cls)})
    if unknown:
        raise ValueError(f"{name or 'it'} has no field {', '.join(unknown)}")
    paths = {field: f"{name}.{field}".strip(".") for field in stored}
    return cls(**{f: _value(hints[f], x, paths[f], own) for f, x in stored.items()})
