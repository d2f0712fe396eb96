"""Copies the parameters of a run's selected round.

usage: fedjax-rec export RUN [--output DIR]

DIR, by default RUN-export, is a new or an empty folder. It gets:

  parameters.safetensors  arrays: the server's shared.GROUP..., and the clients'
                          personal.GROUP..., [N, ...] in the order of "clients" in
                          ids.json
  ids.json                "items" and "users": ids in the order of the rows of tables;
                          "rows": item or user, for each array that is a table;
                          "clients": the user of each client; "round"
  config.json             the run's config

  fedjax-rec export runs/mine --output mine

safetensors.numpy.load_file("mine/parameters.safetensors") reads them without this
package, and `fedjax-rec train CONFIG --start-from mine` trains on from them.
"""

import dataclasses
from pathlib import Path

from fedjax_rec.cli.arguments import read_arguments, read_options, usage
from fedjax_rec.storage.errors import UserError

HELP = __doc__ or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Options of `export`.

    Attributes:
        output: the new folder; by default RUN-export.
    """

    output: Path | None = None


def main(args: list[str]) -> int:
    """Runs the command."""
    run, rest = args[:1], args[1:]
    if not run or run[0].startswith("-"):
        return usage(HELP, args, "the folder of a run, such as runs/mine")
    flags, asked = read_arguments(rest)
    if asked is not None:
        return usage(HELP, rest)
    options = read_options(flags, Export())
    from fedjax_rec.runs.model import export_model

    path = Path(run[0])
    output = options.output or path.with_name(f"{path.resolve().name}-export")
    if output == path:
        raise UserError(f"--output {output} is the run itself: choose another folder")
    print(f"written: {export_model(path, output)}")
    return 0
