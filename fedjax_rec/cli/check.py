"""Checks the parts of a Python file against the laws of their kind.

usage: fedjax-rec check FILE [--kind NAME] [--law TEXT]

FILE declares kinds of parts, as for --plugin: classes with @fedjax_rec.kind("codec"),
for example. Every law that applies to a kind is run on its default settings, on small
data, and each is reported as

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
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_rec.cli.arguments import read_arguments, read_options, usage
from fedjax_rec.cli.config_file import load_plugin
from fedjax_rec.experiment.own_kinds import declaration
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.errors import UserError

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
    kinds = [(*_declared(cls), cls) for cls in load_plugin(Path(file[0]))]
    names = [name for _, name, _ in kinds]
    if unknown := [name for name in options.kind if name not in names]:
        raise UserError(f"--kind {unknown[0]}: {file[0]} declares {', '.join(names)}")
    set_up_jax()
    broken = 0
    for slot, name, cls in kinds:
        if not options.kind or name in options.kind:
            broken += report(slot, name, cls, options.law)
    if broken:
        print(f"\n{broken} broken {'law' if broken == 1 else 'laws'}")
    return 1 if broken else 0


def _declared(cls: type) -> tuple[str, str]:
    slot_and_name = declaration(cls)
    assert slot_and_name is not None
    return slot_and_name


def report(slot: str, name: str, cls: type, text: str) -> int:
    """Checks one kind and prints a line for each law.

    Returns:
        The number of broken laws.

    Raises:
        UserError: no law has the text.
    """
    from fedjax_rec import testing

    print(f"{slot} {name} ({cls.__name__})")
    try:
        part: Any = cls()
    except Exception as error:
        print(f"  BROKEN   {cls.__name__}() fails: {type(error).__name__}: {error}")
        return 1
    laws = [
        law
        for law in testing.laws(part, slot)
        if text.lower() in law.name.replace("`", "").lower()
    ]
    if not laws:
        raise UserError(f"--law {text}: no law of {name} has these words")
    return sum(_checked(law) for law in laws)


def _checked(law: "Law") -> int:
    from fedjax_rec import testing

    live = sys.stdout.isatty()
    if live:
        print(f"  ...      {law}", end="\r", flush=True)
    start, word, reason = time.monotonic(), "ok", ""
    try:
        law()
    except testing.NotApplicable as skipped:
        word, reason = "skipped", str(skipped)
    except testing.LawBroken as error:
        word, reason = "BROKEN", str(error).removeprefix(f"{law}: ")
    seconds = time.monotonic() - start
    took = f" ({seconds:.0f} s)" if seconds > 2 else ""
    print(f"  {word:<8} {law}{took}", flush=True)
    for line in reason.splitlines():
        print(f"           {line}")
    return word == "BROKEN"
