"""Names of fields as users write them: found, or refused with valid ones."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import Field, fields_of, shown
from fedjax_rec.experiment.renamed import new_spelling
from fedjax_rec.storage.errors import UserError


def find(fields: Mapping[str, Field], name: str, values: Sequence[str] = ()) -> str:
    """The name of a field as Python has it.

    Args:
        fields: all fields.
        name: for example `algorithm.client-lr`; dashes are underscores.
        values: given for it, for the message.

    Raises:
        UserError: there is no such field; the message has the new spelling of an old
            one, or valid names.
    """
    wanted = name.replace("-", "_")
    if wanted in fields:
        return wanted
    new = new_spelling(wanted, values)
    if new is not None:
        raise UserError(f"--{shown(name)} is now {new}")
    raise UserError(f"there is no field --{shown(name)}. {suggestion(fields, wanted)}")


def suggestion(fields: Mapping[str, Field], wanted: str) -> str:
    """A sentence with valid fields in place of an unknown one.

    Fields of the part that the name begins with come first, above all one of the same
    name in a part of it. A field that only other
    kinds of the part have is named with these kinds.

    Args:
        fields: all fields.
        wanted: unknown name, dotted, with underscores.
    """
    owner, inner = _split(fields, wanted)
    part = fields.get(owner, Field(None, "", None))
    slot = part.slot or ""
    kinds = {
        kind: list(fields_of(registry.load(slot, kind)()))
        for kind in registry.SLOTS.get(slot, ())
    }
    in_kinds = dict.fromkeys(name for names in kinds.values() for name in names)
    inside = [n.removeprefix(f"{owner}.") for n in fields if n.startswith(f"{owner}.")]
    near = [name for name in inside if name.endswith(f".{inner}")][:3]
    if not near and inner not in in_kinds:
        near = _nearest(inner, inside if owner else fields)
    if near:
        return f"The nearest: {_flags(near, owner)}"
    for name in _nearest(inner, in_kinds)[:1]:
        having = ", ".join(kind for kind, names in kinds.items() if name in names)
        return (
            f"{shown(name)} is a field of --{shown(owner)} {having}; this "
            f"{shown(owner)} is {registry.name_of(part.value)}"
        )
    if part.value is None:
        return f"{shown(owner)} is none; choose --{shown(owner)} {', '.join(kinds)}"
    if inside:
        return f"The fields of {shown(owner)}: {_flags(inside, owner)}"
    parts = list(dict.fromkeys(name.partition(".")[0] for name in fields))
    near = difflib.get_close_matches(wanted, parts, n=3, cutoff=0)
    return f"The nearest: {_flags(near)}; --help lists all"


def _split(fields: Mapping[str, Field], wanted: str) -> tuple[str, str]:
    """The longest part that a name begins with, or "", and the rest of the name."""
    words = wanted.split(".")
    for length in range(len(words) - 1, 0, -1):
        owner = ".".join(words[:length])
        if owner in fields or any(name.startswith(f"{owner}.") for name in fields):
            return owner, ".".join(words[length:])
    return "", wanted


def _nearest(wanted: str, names: Iterable[str]) -> list[str]:
    """Up to three similar names, the most similar first."""
    end = wanted.rpartition(".")[2]

    def likeness(name: str) -> float:
        last = name.rpartition(".")[2]
        full = difflib.SequenceMatcher(None, wanted, name).ratio()
        ends = difflib.SequenceMatcher(None, end, last).ratio()
        return max(full, ends) + (f"_{end}_" in f"_{last}_") + full / 10

    ranked = sorted(names, key=likeness, reverse=True)
    bound = max(0.65, likeness(ranked[0]) - 0.3) if ranked else 0
    return [name for name in ranked if likeness(name) >= bound][:3]


def _flags(names: Iterable[str], owner: str = "") -> str:
    return ", ".join(f"--{shown(f'{owner}.{name}'.strip('.'))}" for name in names)
