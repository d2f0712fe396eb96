"""Prepares data sets, and shows how clients share them.

usage: fedjax-rec data prepare SOURCE --dir DIR [--FIELD VALUE]
       fedjax-rec data describe SOURCE|CONFIG [--plot FILE] [--FIELD VALUE]

prepare reads the original files of a data set once into the cache, and shows the number
of users, items and interactions, and counts of what was dropped or merged.

describe shows how a partition distributes the training interactions over clients:
sizes, divergence of the clients' tastes, popularity. Its fields are an experiment's:

  fedjax-rec data prepare movielens-100k --dir ~/ml-100k
  fedjax-rec data prepare csv --dir sales.csv --user customer --item sku
  fedjax-rec data describe synthetic --partition dirichlet --partition.alpha 0.1
  fedjax-rec data describe movielens-100k --data.dir ~/ml-100k --plot sizes.png
  fedjax-rec data describe quickstart --partition iid
  fedjax-rec data describe quickstart \\
      --plugin examples/own_partition.py --partition weekday

sources: {sources}
`fedjax-rec data prepare SOURCE --help` lists the fields of a source.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fedjax_rec.cli import explain
from fedjax_rec.cli.arguments import (
    apply_flags,
    read_arguments,
    read_options,
    usage,
)
from fedjax_rec.cli.config_file import (
    check_data,
    load_config,
    load_plugins,
    user_errors,
)
from fedjax_rec.cli.config_names import shipped
from fedjax_rec.data.settings import CsvData, FileData, SyntheticData
from fedjax_rec.experiment import registry
from fedjax_rec.experiment.settings import Experiment
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.errors import UserError

HELP = __doc__ or ""

FILE_SOURCES: tuple[str, ...] = get_args(get_type_hints(FileData)["source"])
SOURCES = ("synthetic", *FILE_SOURCES, "csv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Describe:
    """Options of `data describe`.

    Attributes:
        plot: image to draw into, which needs the extra `analysis`.
        plugin: Python files with further kinds of parts (docs/extending.md).
    """

    plot: Path | None = None
    plugin: tuple[str, ...] = ()


def main(args: list[str]) -> int:
    """Runs the command."""
    actions = {"prepare": prepare, "describe": describe}
    if len(args) < 2 or args[0] not in actions or args[1].startswith("-"):
        text = HELP.format(sources=", ".join(SOURCES))
        return usage(text, args, f"{' or '.join(actions)}, then a source or a config")
    with user_errors("--data." if args[0] == "describe" else "--"):
        actions[args[0]](args[1], args[2:])
    return 0


def prepare(source: str, args: list[str]) -> None:
    """Reads `source` into the cache and shows its counts."""
    settings: Any = data_of(source)
    flags, words = read_arguments(args)
    if words is not None:
        print(f"usage: fedjax-rec data prepare {source} [--FIELD VALUE]\n")
        print("\n".join(explain.fields(settings, "")))
        return
    settings = read_options(flags, settings)
    check_data(settings, "--")
    set_up_jax()
    from fedjax_rec.data.returned import load_data

    data = load_data(settings, True)
    counts = {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": len(data),
        **{f"note: {name}": count for name, count in data.notes.items()},
    }
    width = max(map(len, counts))
    print(data.name)
    for name, count in counts.items():
        print(f"  {name:<{width}}  {count:>10,}")
    if source == "synthetic":
        from fedjax_rec.data.synthetic import LIMITS

        print("Generated from its seed at each use; no file is stored.")
        print("Real data have these properties, and this lacks them:")
        for limit in LIMITS:
            print(f"  - {limit}")
    else:
        print(f"prepared in {cache_root(settings.cache)}")


def describe(name: str, args: list[str]) -> None:
    """Shows how a partition distributes the training interactions over clients."""
    flags, words = read_arguments(args)
    load_plugins(flags)
    if name.endswith(".py") or name in shipped():
        experiment, _ = load_config(name)
    else:
        experiment = Experiment(name=name, data=data_of(name, shipped()))
    options, experiment = apply_flags(flags, Describe(), experiment)
    if words is not None:
        title = f"usage: fedjax-rec data describe {name} [--plot FILE] [--FIELD VALUE]"
        doc = describe.__doc__ or ""
        print(explain.asked(words, options, experiment, title, doc), end="")
        return
    if options.plot is not None and not options.plot.parent.is_dir():
        raise UserError(
            f"--plot {options.plot}: there is no folder {options.plot.parent}"
        )
    check_data(experiment.data)
    set_up_jax()
    from fedjax_rec.data import describe as describing
    from fedjax_rec.data.returned import load_data, split_and_partition
    from fedjax_rec.report import population
    from fedjax_rec.storage.files import replacing

    data = load_data(experiment.data, True)
    split, partition = split_and_partition(data, experiment.split, experiment.partition)
    facts = describing.describe(split.train, partition)
    print(describing.to_text(facts))
    if options.plot is not None:
        try:
            with replacing(options.plot) as temporary:
                population.plot(facts, temporary)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{options.plot}: {error}") from error
        print(f"written: {options.plot}")


def data_of(source: str, others: Iterable[str] = ()) -> Any:
    """The settings of a source, at their defaults.

    Args:
        source: its name, or that of a kind of data from a user's file.
        others: further names for the hint of an error.

    Raises:
        UserError: there is no such source.
    """
    if source in FILE_SOURCES:
        return FileData(source=source)  # pyright: ignore[reportArgumentType]
    if source in ("synthetic", "csv"):
        return SyntheticData() if source == "synthetic" else CsvData()
    kinds = registry.SLOTS["data"]
    own = [name for name, where in kinds.items() if where in registry.OWN]
    if source in own:
        return registry.load("data", source)()
    known = [*SOURCES, *own]
    near = difflib.get_close_matches(source, [*known, *others], n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown source {source!r}; expected {', '.join(known)}{hint}")
