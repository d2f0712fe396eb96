"""`--help`: all parts of an experiment on two screens, or one part in full."""

import dataclasses
import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import fields_of, shown, text_of
from fedjax_rec.experiment.names import suggestion
from fedjax_rec.storage.errors import UserError

WIDTH = 88


def asked(
    words: Sequence[str], options: Any, experiment: Any, title: str, doc: str
) -> str:
    """The help for the words after `--help`: named parts, or an overview.

    Args:
        words: names of parts or fields.
        options: a dataclass with the command's own options.
        experiment: a dataclass.
        title: usage line.
        doc: docstring of the config; its first paragraph is shown.
    """
    if words:
        owners = {field.name: options for field in dataclasses.fields(options)}
        return "\n".join(
            part(owners.get(word.partition(".")[0], experiment), word) for word in words
        )
    lines = [title, "", *_wrapped(doc.strip().split("\n\n")[0]), "", "Options:"]
    texts = attributes(type(options))
    for field in dataclasses.fields(options):
        lines += _wrapped(texts[field.name], f"  --{shown(field.name):<19}", " " * 23)
    lines += ["", "Fields, as in --rounds 50 --algorithm.dim 64 --codec top_k; --help"]
    lines += ["PART explains one part with all its kinds, such as --help codec:"]
    plain = []
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        slot = registry.slot_of(field.name)
        if slot is None and not dataclasses.is_dataclass(value):
            plain.append(f"{shown(field.name)}={text_of(value)}")
            continue
        text = ""
        if dataclasses.is_dataclass(value):
            text = " ".join(
                f"{shown(name)}={text_of(inner.value) or '(empty)'}"
                for name, inner in fields_of(value).items()
            )
        if slot is not None:
            kind = registry.name_of(value)
            others = set(registry.SLOTS[slot]) - {kind.partition("+")[0]}
            listed = ", ".join(name for name in registry.SLOTS[slot] if name in others)
            text = f"{kind}{': ' if text else ''}{text} | or {listed}"
        lines += _wrapped(text, f"  {shown(field.name):<12} ", " " * 17)
    lines += _wrapped(" ".join(plain), f"  {'(top)':<12} ", " " * 17)
    return "\n".join(lines) + "\n"


def part(experiment: Any, name: str) -> str:
    """One part of an experiment with the fields of all its kinds, or one field.

    Raises:
        UserError: there is no such part.
    """
    path = name.replace("-", "_").strip(".")
    every = fields_of(experiment)
    owner, _, field = path.rpartition(".")
    settings = experiment
    for step in owner.split(".") if owner else ():
        settings = getattr(settings, step, None)
    if path not in every and not any(n.startswith(f"{path}.") for n in every):
        raise UserError(f"--help {name}: no such part. {suggestion(every, path)}")
    value = getattr(settings, field)
    slot = every[path].slot if path in every else None
    if slot is not None:
        lines = [f"--{shown(path)} KIND; this one is {registry.name_of(value)}"]
        classes = [registry.load(slot, kind) for kind in registry.SLOTS[slot]]
        if value is not None and type(value) not in classes:
            classes.insert(0, type(value))
        for cls in classes:
            kind = value if type(value) is cls else cls()
            head = f"--{shown(path)} {registry.name_of(kind).partition('+')[0]}"
            lines += [
                "",
                head,
                *_wrapped(_summary(cls), "  "),
                *fields(kind, f"{path}."),
            ]
    elif path in every:
        lines = fields(settings, f"{owner}." if owner else "", only=field)
    else:
        lines = [f"--{shown(path)}.FIELD VALUE", *_wrapped(_summary(type(value)), "  ")]
        lines += fields(value, f"{path}.")
    return "\n".join(lines) + "\n"


def fields(settings: Any, prefix: str, only: str = "") -> list[str]:
    """The fields of a dataclass, with values and descriptions.

    Args:
        settings: a dataclass.
        prefix: precedes the names.
        only: name of the only field to show; by default all are shown.
    """
    lines, texts = [], attributes(type(settings))
    for field in dataclasses.fields(settings):
        if only and field.name != only:
            continue
        path, value = f"{prefix}{field.name}", getattr(settings, field.name)
        lines.append(f"  --{shown(path)} {text_of(value) or '(empty)'}")
        lines += _wrapped(texts.get(field.name, ""), "      ")
        inner = fields_of(settings, prefix).get(path)
        if inner is not None and inner.slot is not None:
            kinds = ", ".join(registry.SLOTS[inner.slot])
            lines += _wrapped(f"Kinds: {kinds} (--help {shown(path)}).", "      ")
    return lines


def attributes(cls: type) -> dict[str, str]:
    """Descriptions of a class's fields, from `Attributes:` in docstrings."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^Attributes:\n((?:(?: .*)?\n?)*)", doc, re.MULTILINE)
        body = textwrap.dedent(section[1]).strip() if section else ""
        for entry in re.split(r"\n(?=\w+: )", body):
            name, _, text = entry.partition(":")
            texts[name] = " ".join(text.split())
    return texts


def _summary(cls: type) -> str:
    doc = inspect.getdoc(cls) or ""
    made_by_dataclass = doc.startswith(f"{cls.__name__}(")
    return "" if made_by_dataclass else re.split(r"\n\s*\n", doc)[0]


def _wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    if not text.strip():
        return [first.rstrip()] if first.strip() else []
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
