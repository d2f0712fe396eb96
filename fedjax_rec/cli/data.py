"""`fedjax-rec data prepare` and `data describe`."""

import dataclasses
import difflib
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

from fedjax_rec.cli.config_file import load_config, override, switch, value_error
from fedjax_rec.experiment.build import Experiment
from fedjax_rec.experiment.data import CsvData, FileData, SyntheticData
from fedjax_rec.experiment.split import (
    PartitionConfig,
    SplitConfig,
    make_partition,
    make_split,
)
from fedjax_rec.runs.folder import RunFolder
from fedjax_rec.runs.session import set_up_jax
from fedjax_rec.storage.cache import cache_root
from fedjax_rec.storage.errors import UserError

HELP = """\
usage: fedjax-rec data prepare SOURCE --dir DIR [--FIELD VALUE]
       fedjax-rec data describe SOURCE|CONFIG [--plot FILE] [--FIELD VALUE]

prepare reads the original files of a data set once into the cache, and shows how many
users, items and interactions there are and what was dropped or merged on the way.

describe shows how a partition shares the training interactions among clients: sizes,
how much the clients' tastes diverge, popularity. Its fields are those of an experiment:

  fedjax-rec data prepare movielens-100k --dir ~/ml-100k
  fedjax-rec data prepare csv --dir sales.csv --user customer --item sku
  fedjax-rec data describe synthetic --partition.kind dirichlet --partition.alpha 0.1
  fedjax-rec data describe movielens-100k --data.dir ~/ml-100k --plot sizes.png
  fedjax-rec data describe configs/quickstart.py --partition.kind iid

sources: {sources}
`fedjax-rec data prepare SOURCE --help` lists what a source takes.
"""

FILE_SOURCES: tuple[str, ...] = get_args(get_type_hints(FileData)["source"])
SOURCES = ("synthetic", *FILE_SOURCES, "csv")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Describe:
    """Options of `data describe`.

    Attributes:
        data: source of the interactions.
        split: train, validation, test; the train part is described.
        partition: how users are assigned to clients.
        plot: image file for a plot (needs the extra `analysis`).
    """

    data: SyntheticData | FileData | CsvData
    split: SplitConfig
    partition: PartitionConfig
    plot: Path | None = None


def main(args: list[str]) -> int:
    """Runs the command."""
    actions = {"prepare": prepare, "describe": describe}
    if len(args) < 2 or args[0] not in actions or args[1].startswith("-"):
        text = HELP.format(sources=", ".join(SOURCES))
        asked = any(arg in ("-h", "--help") for arg in args)
        print(text, end="", file=sys.stdout if asked else sys.stderr)
        if args and args[0] not in (*actions, "-h", "--help"):
            raise UserError(f"unknown: data {args[0]}; expected {' or '.join(actions)}")
        return 0 if asked else 2
    set_up_jax()
    try:
        actions[args[0]](args[1], args[2:])
    except ValueError as error:
        prefix = "--data." if args[0] == "describe" else "--"
        raise UserError(value_error(error, prefix)) from error
    return 0


def prepare(source: str, args: list[str]) -> None:
    """Reads `source` into the cache and shows its counts."""
    config: Any = data_of(source)
    prog = f"fedjax-rec data prepare {source}"
    doc = f"Reads {source} into the cache, and shows its counts."
    config = override(type(config), config, args, prog=prog, doc=doc)
    data = config.load(progress=True)
    rows = {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": len(data),
        **{f"note: {name}": count for name, count in data.notes.items()},
    }
    width = max(map(len, rows))
    print(data.name)
    for name, count in rows.items():
        print(f"  {name:<{width}}  {count:>10,}")
    if source == "synthetic":
        from fedjax_rec.data.synthetic import LIMITS

        print("Generated from its seed at each use; no file is stored.")
        print("Real data have these properties, and this lacks them:")
        for limit in LIMITS:
            print(f"  - {limit}")
    else:
        print(f"prepared in {getattr(config, 'cache', None) or cache_root()}")


def describe(what: str, args: list[str]) -> None:
    """Shows how a partition shares the training interactions among clients."""
    doc = "Shows how a partition shares the training interactions among clients."
    if what.endswith(".py"):
        experiment, text = load_config(what)
        doc = f"{doc}\n\n{text}"
    else:
        experiment = Experiment(name=what, data=data_of(what))
    experiment, args = switch(experiment, args)
    default = Describe(
        data=experiment.data, split=experiment.split, partition=experiment.partition
    )
    prog = f"fedjax-rec data describe {what}"
    options = override(Describe, default, args, prog=prog, doc=doc)
    from fedjax_rec.data import describe as describing

    if options.plot is not None and not options.plot.parent.is_dir():
        raise UserError(f"{options.plot.parent} is no folder; expected one for --plot")
    data = options.data.load(progress=True)
    train = make_split(data, options.split).train
    numbers = describing.describe(train, make_partition(train, options.partition))
    print(describing.to_text(numbers))
    if options.plot is not None:
        try:
            folder = RunFolder(options.plot.parent)
            with folder.replacing(options.plot.name) as temporary:
                describing.plot(numbers, temporary)
        except (ImportError, OSError, ValueError) as error:
            raise UserError(f"{options.plot}: {error}") from error
        print(f"written: {options.plot}")


def data_of(source: str) -> SyntheticData | FileData | CsvData:
    """The data of a source, at its defaults.

    Raises:
        UserError: there is no such source.
    """
    if source == "synthetic":
        return SyntheticData()
    if source == "csv":
        return CsvData()
    for name in FILE_SOURCES:
        if name == source:
            return FileData(source=name)  # pyright: ignore[reportArgumentType]
    near = difflib.get_close_matches(source, SOURCES, n=1)
    hint = f". Did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown source {source!r}; expected {', '.join(SOURCES)}{hint}")
