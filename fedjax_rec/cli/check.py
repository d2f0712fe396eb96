"""Checks the parts of a Python file against the laws of their kind.

usage: fedjax-rec check FILE [--kind NAME] [--law TEXT]

FILE declares kinds of parts, as for --plugin: classes with @fedjax_rec.kind("codec"),
for example. Every law that applies to a kind is run on its default settings, on small
data. If FILE is a config, the parts of its experiments that are not of the package are
checked as well, with their values. Each law is reported as

  ok        the part obeys it
  BROKEN    it does not: what was expected, and what the part did
  skipped   it does not apply, and why

An aggregation rule, a codec, a split or a partition takes seconds, an algorithm or a
wrapper up to a minute. The exit status is 1 if a law is broken.

options:
  --kind NAME   only this kind of the file; may be repeated
  --law TEXT    only laws whose sentence contains TEXT

  fedjax-rec check capped.py
  fedjax-rec check mine.py --kind fixed_point --law padding

The same laws in pytest: fedjax_rec.testing.laws (docs/testing.md).
"""

import dataclasses
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_rec.cli.arguments import read_arguments, read_options, usage
from fedjax_rec.cli.config_file import load_configs, load_file
from fedjax_rec.experiment.fields import fields_of
from fedjax_rec.experiment.own_kinds import declaration, declared
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.errors import UserError
from fedjax_rec.storage.sources import own_file

if TYPE_CHECKING:
    from fedjax_rec.testing import Law

HELP = __doc__ or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """Options of `check`.

    Attributes:
        kind: names of the kinds to check; by default all of the file.
        law: a part of the sentences of laws to check; by default all.
    """

    kind: tuple[str, ...] = ()
    law: str = ""


def main(args: list[str]) -> int:
    """Runs the command."""
    file, rest = args[:1], args[1:]
    if not file or file[0].startswith("-"):
        return usage(HELP, args, "a Python file that declares kinds, such as capped.py")
    flags, asked = read_arguments(rest)
    if asked is not None:
        return usage(HELP, rest)
    options = read_options(flags, Check())
    parts = list(parts_of(Path(file[0])))
    names = [name for _, name, _ in parts]
    if not parts:
        raise UserError(
            f"{file[0]} declares no kind: decorate a class with "
            '@fedjax_rec.kind("codec"), for example'
        )
    if unknown := [name for name in options.kind if name not in names]:
        raise UserError(f"--kind {unknown[0]}: {file[0]} declares {', '.join(names)}")
    set_up_jax()
    chosen = [part for part in parts if not options.kind or part[1] in options.kind]
    broken = sum(report(*part, options.law) for part in chosen)
    if broken:
        print(f"\n{broken} broken {'law' if broken == 1 else 'laws'}")
    return 1 if broken else 0


def parts_of(file: Path) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Slot, name and maker of each part that a file defines.

    These are the kinds that it declares or imports, at their defaults, and parts from
    outside of the package in the experiments of its `get_config()`.

    Raises:
        UserError: the file is missing or fails.
    """
    module = load_file(file, str(file))
    for cls in declared(module):
        slot, name = declaration(cls) or ("", "")
        yield slot, name, cls
    if not hasattr(module, "get_config"):
        return
    for experiment in load_configs(str(file)).experiments:
        for path, field in fields_of(experiment).items():
            part = field.value
            if field.slot and part is not None and own_file(type(part)):
                yield field.slot, f"{experiment.name}.{path}", lambda part=part: part


def report(slot: str, name: str, make: Callable[[], Any], text: str) -> int:
    """Checks one part and prints a line for each law.

    Args:
        slot: the field that takes the part.
        name: its name.
        make: makes the part.
        text: only laws with this text are checked.

    Returns:
        The number of broken laws.

    Raises:
        UserError: no law has the text.
    """
    from fedjax_rec import testing

    print(f"{slot} {name}")
    try:
        part = make()
    except Exception as error:
        print(f"  BROKEN   its defaults are refused: {type(error).__name__}: {error}")
        return 1
    laws = [
        law
        for law in testing.laws(part, slot)
        if text.lower() in law.name.replace("`", "").lower()
    ]
    if not laws:
        raise UserError(f"--law {text}: no law of {name} has these words")
    results = [_checked(law) for law in laws]
    if unbuilt := results.count(None):
        print(f"  skipped  {unbuilt} laws, since the part cannot be built")
    return results.count(False)


def _checked(law: "Law") -> bool | None:
    """Whether a law holds or does not apply; `None` if the part cannot be built."""
    from fedjax_rec import testing

    live = sys.stdout.isatty()
    if live:
        print(f"  ...      {law}", end="\r", flush=True)
    start, word, reason = time.monotonic(), "ok", ""
    try:
        reason = law()
    except testing.Unbuilt:
        return None
    except testing.NotApplicable as skipped:
        word, reason = "skipped", str(skipped)
    except testing.LawBroken as error:
        word, reason = "BROKEN", str(error).removeprefix(f"{law}: ")
    seconds = time.monotonic() - start
    took = f" ({seconds:.0f} s)" if seconds > 2 else ""
    print(f"  {word:<8} {law}{took}", flush=True)
    for line in reason.splitlines():
        print(textwrap.indent(textwrap.fill(line, 85), " " * 11))
    return word != "BROKEN"
