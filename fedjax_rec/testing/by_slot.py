"""The laws that apply to a part, by its slot."""

import importlib
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.own_kinds import declaration
from fedjax_rec.testing import settings
from fedjax_rec.testing.law import Law, LawBroken, NotApplicable, Subject, bound

_SYSTEM = ("systems", "local_training", "models")
_FAMILIES: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("sources:Loaded", ("sources",)),
    "split": ("splits:Made", ("splits",)),
    "partition": ("partitions:Partitioned", ("partitions",)),
    "backbone": ("backbones:Frozen", ("backbones",)),
    "algorithm": ("bases:with_algorithm", _SYSTEM),
    "model": ("bases:with_model", ("systems", "models")),
    "client_optimizer": ("optimizers:Client", ("optimizers",)),
    "optimizer": ("optimizers:Client", ("optimizers",)),
    "server_optimizer": ("optimizers:Server", ("optimizers",)),
    "adapter": ("bases:with_adapter", ("systems", "models")),
    "users": ("bases:with_users", ("systems", "models")),
    "training": ("bases:with_training", _SYSTEM),
    "wrapper": ("bases:with_wrapper", ("systems", "models")),
    "wrapper.then": ("bases:with_wrapper", ("systems", "models")),
    "aggregation": ("rules:Rule", ("rules",)),
    "aggregation.then": ("rules:Rule", ("rules",)),
    "codec": ("codecs:Codec", ("codecs", "decoded")),
    "codec.then": ("codecs:Codec", ("codecs", "decoded")),
    "attack": ("bases:with_attack", ("systems", "attacks")),
    "metric": ("metrics:Measured", ("metrics",)),
    "cohort": ("cohorts:Drawn", ("cohorts",)),
}
"""What makes the subject of a part, and the modules with the laws, by slot."""


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
    found = _settings_laws(part, slot)
    maker, modules = _FAMILIES[slot]
    module, _, name = maker.partition(":")
    make = getattr(_module(module), name)
    functions = [law for module in modules for law in _module(module).LAWS]

    def subject() -> Any:
        try:
            settings.has_the_methods(settings.Settings(part, slot))
        except LawBroken as error:
            raise NotApplicable(str(error)) from error
        made = make(part)
        functions[0](made)  # if `build` returned something else, the others are skipped
        return made

    found += bound(functions, Subject(subject))
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


def _module(name: str) -> Any:
    return importlib.import_module(f"fedjax_rec.testing.{name}")


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
