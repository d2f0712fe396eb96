"""Spellings of version 0.1, and the present ones, from `renamed.toml`."""

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedjax_rec.experiment import registry


@functools.cache
def _tables() -> dict[str, Any]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def new_class(name: str) -> str | None:
    """A sentence on the present form of a class of version 0.1, or `None`.

    >>> new_class("PopulationConfig")
    'PopulationConfig of version 0.1 is now StoreConfig'
    """
    if new := _tables()["classes"].get(name):
        return f"{name} of version 0.1 is now {new}"
    slot = name.removesuffix("Config").lower()
    if not name.endswith("Config") or slot not in _tables()["kinds"].values():
        return None
    kinds = [location.rpartition(":")[2] for location in registry.SLOTS[slot].values()]
    return (
        f"{name} of version 0.1 is now a class for each kind: "
        f"Experiment({slot}=...) takes {', '.join(kinds)}"
    )


def new_spelling(name: str, values: Sequence[str] = ()) -> str | None:
    """The present spelling of a field of version 0.1, or `None`.

    Args:
        name: dotted, with underscores.
        values: given for it.

    >>> new_spelling("codec.name", ["int8"]), new_spelling("codec.name", ["sign"])
    ('--codec block_int --codec.bits 8', '--codec sign')
    """
    tables = _tables()
    owner = tables["kinds"].get(name, name)
    if len(values) == 1:
        value, voting = values[0], ""
        for ending, kind in (("_of_voters", "voters"), ("_diluted", "diluted")):
            if owner == "aggregation" and value.endswith(ending):
                value = value.removesuffix(ending)
                then = ".then" if value.startswith("mixed") else ""
                voting = f" --aggregation{then}.voting {kind}"
        new = tables["values"].get(owner, {}).get(value)
        if new is not None or owner != name or voting:
            return f"{new or f'--{owner} {value}'}{voting}"
    if owner != name:
        return f"--{owner} KIND"
    for prefix, pattern in tables["prefixes"].items():
        if name.startswith(prefix):
            return pattern.format(name.removeprefix(prefix).replace("_", "-"))
    return tables["fields"].get(name)
