"""`--help`: all parts of an experiment on two screens, or one part in full."""

import dataclasses
import inspect
import re
import textwrap
from typing import Any

from fedjax_rec.experiment import registry
from fedjax_rec.experiment.fields import fields_of, shown, text_of
from fedjax_rec.storage.errors import UserError

WIDTH = 88


def overview(options: Any, experiment: Any, title: str, doc: str) -> str:
    """Every option and field with its value, on about two screens.

    Args:
        options: a dataclass with the command's own options.
        experiment: a dataclass.
        title: usage line.
        doc: docstring of the config; its first paragraph is shown.
    """
    lines = [title, "", *_wrapped(doc.strip().split("\n\n")[0], ""), "", "Options:"]
    for name, text in attributes(type(options)).items():
        field = f"  --{shown(name)}"
        lines += _wrapped(text, f"{field:<22} ", " " * 23)
    lines += ["", "Fields, as in --rounds 50 --algorithm.dim 64 --codec top_k; --help"]
    lines += ["PART explains one part with all its kinds, such as --help codec:"]
    plain = []
    for field in dataclasses.fields(experiment):
        value = getattr(experiment, field.name)
        slot = registry.slot_of(field.name)
        if slot is None and not dataclasses.is_dataclass(value):
            plain.append(f"{shown(field.name)}={text_of(value)}")
            continue
        head = f"  {shown(field.name):<12} "
        text = _values(value)
        if slot is not None:
            kind = registry.name_of(value)
            others = [name for name in registry.SLOTS[slot] if name != kind]
            text = f"{kind}{': ' if text else ''}{text} | or {', '.join(others)}"
        lines += _wrapped(text, head, " " * 17)
    lines += _wrapped(" ".join(plain), f"  {'(top)':<12} ", " " * 17)
    return "\n".join(lines) + "\n"


def part(experiment: Any, name: str) -> str:
    """One part of an experiment: its kinds, and their fields.

    Raises:
        UserError: there is no such part.
    """
    path = name.replace("-", "_").strip(".")
    value = experiment
    for field in path.split("."):
        value = getattr(value, field, _MISSING)
    slot = registry.slot_of(path)
    if slot is None and not dataclasses.is_dataclass(value):
        parts = [
            f.name
            for f in dataclasses.fields(experiment)
            if registry.slot_of(f.name)
            or dataclasses.is_dataclass(getattr(experiment, f.name))
        ]
        raise UserError(
            f"--help {name}: expected one of {', '.join(map(shown, parts))}"
        )
    if slot is None:
        return "\n".join(_kind(path, type(value), "", value)) + "\n"
    current = registry.name_of(value)
    lines = [f"--{shown(path)} KIND; here it is {current}"]
    if current not in registry.SLOTS[slot] and value is not None:
        lines += ["", *_kind(path, type(value), current, value)]
    for kind in registry.SLOTS[slot]:
        cls = registry.load(slot, kind)
        settings = value if kind == current else cls()
        lines += ["", *_kind(path, cls, kind, settings)]
    return "\n".join(lines) + "\n"


_MISSING = object()


def _kind(path: str, cls: type, kind: str, settings: Any) -> list[str]:
    """The documentation of one class of settings."""
    summary = re.split(r"\n\s*\n", (inspect.getdoc(cls) or "").strip())[0]
    head = f"--{shown(path)} {kind}" if kind else f"--{shown(path)}.FIELD VALUE"
    return [head, *_wrapped(summary, "  "), *fields(settings, f"{path}.")]


def fields(settings: Any, prefix: str) -> list[str]:
    """The fields of a dataclass, with values and descriptions."""
    lines, texts = [], attributes(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        lines.append(
            f"  --{shown(prefix)}{shown(field.name)} {text_of(value) or '(empty)'}"
        )
        lines += _wrapped(texts.get(field.name, ""), "      ")
    return lines


def attributes(cls: type) -> dict[str, str]:
    """Descriptions of the fields of a class, from `Attributes:` in its docstring."""
    doc = inspect.getdoc(cls) or ""
    match = re.search(r"^Attributes:\n(.*?)(?=^\S|\Z)", doc, re.DOTALL | re.MULTILINE)
    if match is None:
        return {}
    body = textwrap.dedent(match[1]).rstrip()
    entries = re.split(r"\n(?=\w+: )", body)
    pairs = (entry.partition(":") for entry in entries)
    return {name.strip(): " ".join(text.split()) for name, _, text in pairs}


def _values(settings: Any) -> str:
    if not dataclasses.is_dataclass(settings):
        return ""
    return " ".join(
        f"{shown(name)}={text_of(field.value) or '(empty)'}"
        for name, field in fields_of(settings).items()
    )


def _wrapped(text: str, first: str, rest: str | None = None) -> list[str]:
    if not text:
        return [first.rstrip()] if first.strip() else []
    return textwrap.wrap(
        " ".join(text.split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def asked(words: list[str], options: Any, experiment: Any, title: str, doc: str) -> str:
    """The help for the words after `--help`: one part, or all of them."""
    names = [word for word in words if not word.startswith("-")]
    if names:
        return "\n".join(part(experiment, name) for name in names)
    return overview(options, experiment, title, doc)
