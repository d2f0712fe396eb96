"""Any table of interactions: user, item, and maybe rating and timestamp."""

from pathlib import Path

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources.find_table import find_table
from fedjax_rec.data.sources.headers import DELIMITERS, read_header
from fedjax_rec.data.sources.open_table import OPTIONS, read_table
from fedjax_rec.data.sources.source import Inputs, Options, Source

_SUFFIXES = (".csv", ".tsv", ".dat", ".txt", ".data", ".inter")


def _find(path: Path, options: Options) -> Inputs:
    return find_table(path, options, _SUFFIXES)


def _parse(inputs: Inputs, options: Options) -> Interactions:
    file = inputs["interactions"]
    text = file.text(options.get("encoding", "utf-8"))
    bare = not options.get("header", True)
    header = read_header(text, file.label, options.get("delimiter"), first_is_data=bare)
    if bare:
        places = dict(
            zip(("user", "item", "rating", "timestamp"), header.names, strict=False)
        )
        options = {**places, **options}
    return read_table(text, header, inputs, options, SOURCE.name)


SOURCE = Source(
    name="csv",
    doc=(
        "any table of user, item, and maybe rating and timestamp, separated by "
        + ", ".join(repr(d) for d in DELIMITERS)
    ),
    find=_find,
    parse=_parse,
    options=("file", "header", "delimiter", *OPTIONS),
)
