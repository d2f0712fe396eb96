"""Laws of every part: settings that can be stored, hashed, and set by flags."""

import dataclasses
import inspect
import json
from typing import Any

from fedjax_rec.experiment.fields import fields_of, read_value, text_of
from fedjax_rec.experiment.stored import restored
from fedjax_rec.runs.plain import plain
from fedjax_rec.testing.compare import require
from fedjax_rec.testing.law import LawBroken

METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {"load": ("progress",)},
    "split": {"split": ("data",)},
    "partition": {"partition": ("train",)},
    "backbone": {"load": ("progress",)},
    "cohort": {"slots": ("num_clients",), "build": ("fleet",)},
    "client_optimizer": {"build": ()},
    "optimizer": {"build": ()},
    "server_optimizer": {"build": ()},
    "metric": {"build": ("train",)},
    "users": {},
    "training": {"build": ("model", "local", "personal")},
}
"""Methods and their arguments by slot; other parts have `build(context)`."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """A part and the slot that it is for."""

    part: Any
    slot: str


def is_a_frozen_dataclass(settings: Settings) -> None:
    """The class is a frozen dataclass with a default for every field"""
    cls = type(settings.part)
    advice = "write @dataclasses.dataclass(frozen=True, kw_only=True) above the class"
    require(dataclasses.is_dataclass(cls), f"{cls.__name__} is no dataclass: {advice}")
    frozen = cls.__dataclass_params__.frozen  # pyright: ignore
    require(frozen, f"{cls.__name__} is not frozen: {advice}")
    for field in dataclasses.fields(cls):
        missing = dataclasses.MISSING
        require(
            field.default is not missing or field.default_factory is not missing,
            f"{cls.__name__}.{field.name} has no default",
        )


def is_hashable(settings: Settings) -> None:
    """Settings can be hashed, and equal ones have equal hashes"""
    part = settings.part
    try:
        same = hash(part) == hash(dataclasses.replace(part))
    except TypeError as error:
        names = [
            f"{field.name}={getattr(part, field.name)!r}"
            for field in dataclasses.fields(part)
            if type(getattr(part, field.name)).__hash__ is None
        ]
        raise LawBroken(
            f"{error}: {', '.join(names) or type(part).__name__} cannot be hashed; use "
            "tuples in place of lists and arrays"
        ) from error
    require(
        same and part == dataclasses.replace(part),
        "a copy of the settings is not equal to them",
    )


def has_the_methods(settings: Settings) -> None:
    """The methods of its slot exist and take their arguments"""
    part, name = settings.part, type(settings.part).__name__
    for method, arguments in METHODS.get(settings.slot, _BUILD).items():
        signature = f"{method}({', '.join(arguments)})"
        function = getattr(part, method, None)
        require(
            callable(function),
            f"{name} has no method {method}; kinds of {settings.slot} need {signature}",
        )
        assert function is not None
        taken = inspect.signature(function)
        try:
            taken.bind(*arguments)
        except TypeError as error:
            raise LawBroken(
                f"{name}.{method}{taken} cannot be called as {signature}: {error}"
            ) from error


_BUILD = {"build": ("context",)}


def comes_back_from_a_file(settings: Settings) -> None:
    """Settings written to `config.json` and read back are equal"""
    part = settings.part
    config = json.loads(json.dumps(plain(part)))
    again = restored(type(part), config)
    require(
        again == part,
        f"{part} was written, and {again} was read: fields need types that JSON has, "
        "such as numbers, texts, tuples of them, and other dataclasses of settings",
    )


def flags_set_every_field(settings: Settings) -> None:
    """A flag can set every field, from the text of its value"""
    for name, field in fields_of(settings.part).items():
        if field.slot is not None or field.value is None:
            continue
        if isinstance(field.value, tuple):
            texts = [text_of(value) for value in field.value]
            if any(dataclasses.is_dataclass(value) for value in field.value):
                continue
        else:
            texts = [str(field.value)]
        name = f"{settings.slot}.{name}"
        value = read_value(name, field.hint, texts)
        require(
            value == field.value,
            f"--{name.replace('_', '-')} {' '.join(texts)} gives {value!r} instead of "
            f"{field.value!r}: is the field's type annotation right?",
        )


LAWS = (
    is_a_frozen_dataclass,
    is_hashable,
    has_the_methods,
    comes_back_from_a_file,
    flags_set_every_field,
)
