"""The laws that apply to a part, by its slot."""

import importlib
from collections.abc import Callable
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declaration
from fedjax_rec.testing import settings
from fedjax_rec.testing.law import Law, LawBroken, NotApplicable, Subject, bound

_FAMILIES = {
    "algorithm": "systems:with_algorithm",
    "aggregation": "rules:Rule",
    "aggregation.then": "rules:Rule",
    "codec": "codecs:Codec",
    "codec.then": "codecs:Codec",
    "partition": "partitions:Partitioned",
}
"""Module with the laws, and what makes the subject of a part, by slot."""


def laws(part: Any, slot: str | None = None) -> list[Law]:
    """The laws that apply to a part of an experiment.

    Args:
        part: settings, such as an instance of a class with `@fedjax_rec.kind("codec")`.
        slot: the field that takes it, such as `"codec"`; by default that of `kind`, or
            of the package's own part.

    Returns:
        Laws; each is called without arguments, and raises `LawBroken` or
        `NotApplicable`.

    Raises:
        ValueError: the slot is unknown.

    >>> from fedjax_rec import Krum
    >>> print(laws(Krum())[0])
    The class is a frozen dataclass with a default for every field
    """
    slot = slot or _slot_of(part)
    if slot not in registry.SLOTS:
        raise ValueError(f"slot={slot!r}, expected one of {', '.join(registry.SLOTS)}")
    found = [*_settings_laws(part, slot)]
    if slot in _FAMILIES:
        module, _, name = _FAMILIES[slot].partition(":")
        family = importlib.import_module(f"fedjax_rec.testing.{module}")
        make: Callable[[Any], Any] = getattr(family, name)
        found += bound(family.LAWS, Subject(lambda: make(part)))
    return found


def check(part: Any, slot: str | None = None) -> None:
    """Checks a part by all laws that apply to it.

    Args:
        part: settings.
        slot: as for `laws`.

    Raises:
        LawBroken: it breaks some; the message has all of them.
    """
    broken = []
    for law in laws(part, slot):
        try:
            law()
        except NotApplicable:
            pass
        except LawBroken as error:
            broken.append(str(error))
    if broken:
        raise LawBroken("\n".join(broken))


def _settings_laws(part: Any, slot: str) -> list[Law]:
    return bound(settings.LAWS, Subject(lambda: settings.Settings(part, slot)))


def _slot_of(part: Any) -> str:
    cls = type(part)
    if (found := declaration(cls)) is not None:
        return found[0]
    location = registry.location_of(cls)
    slots = [s for s, kinds in registry.SLOTS.items() if location in kinds.values()]
    if not slots:
        raise ValueError(
            f"{cls.__name__} has no slot: pass slot='codec', for example, or decorate "
            'the class with @fedjax_rec.kind("codec")'
        )
    return slots[0]
