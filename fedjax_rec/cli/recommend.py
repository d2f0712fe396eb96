"""Shows the items that a trained model ranks first for users.

usage: fedjax-rec recommend RUN --user ID [--user ID ...] [-k 10]
       fedjax-rec recommend RUN --users all --output FILE.csv
       fedjax-rec recommend RUN --items ID,ID,... [-k 10]

RUN is the folder of a run. The model is that of its selected round, and users and items
have the ids of the source (those of synthetic data are u0, u1, ... and i0, i1, ...).
Items that a user has in train or validation are left out, as in the test's ranking;
--include-seen keeps them.

  fedjax-rec recommend runs/mine --user 7
  fedjax-rec recommend runs/mine --user 7 --user 12 -k 20
  fedjax-rec recommend runs/mine --users all --output lists.csv
  fedjax-rec recommend runs/mine --users all --output lists.parquet
  fedjax-rec recommend runs/mine --items 50,181,172

--items describes a new user by items, the latest last. The run has to fit users on
their interactions (--protocol.evaluated reconstructed or tuned), or its model has to
read histories only. FILE has the columns user, rank, item, title and score; Parquet
needs pandas and pyarrow. No file in RUN changes.
"""

import dataclasses
from pathlib import Path

from fedjax_rec.cli.arguments import read_arguments, read_options, usage
from fedjax_rec.storage.errors import UserError

HELP = __doc__ or ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recommend:
    """Options of `recommend`.

    Attributes:
        user: ids of users.
        users: `all` for every user that the run serves.
        items: ids of the items of a new user, the latest last.
        k: items per user.
        output: file for the lists, .csv or .parquet.
        include_seen: keep the items that users have.
    """

    user: tuple[str, ...] = ()
    users: str = ""
    items: tuple[str, ...] = ()
    k: int = 10
    output: Path | None = None
    include_seen: bool = False

    def check(self) -> None:
        """Raises a UserError if the options contradict each other."""
        if self.users not in ("", "all"):
            raise UserError(f"--users {self.users}: expected all, or --user ID")
        if sum(map(bool, (self.user, self.users, self.items))) != 1:
            raise UserError("expected one of --user ID, --users all, --items ID,ID,...")
        if self.k < 1:
            raise UserError(f"-k {self.k}: expected a number of items, from 1")
        if self.output and self.output.suffix not in (".csv", ".parquet"):
            raise UserError(
                f"--output {self.output}: expected FILE.csv or FILE.parquet"
            )
        if self.users and self.output is None:
            raise UserError("--users all needs --output FILE.csv or FILE.parquet")


def main(args: list[str]) -> int:
    """Runs the command."""
    run, rest = args[:1], ["--k" if arg == "-k" else arg for arg in args[1:]]
    if not run or run[0].startswith("-"):
        return usage(HELP, args, "the folder of a run, such as runs/mine")
    flags, asked = read_arguments(rest)
    if asked is not None:
        return usage(HELP, rest)
    options = read_options(flags, Recommend())
    options.check()
    _recommend(Path(run[0]), options)
    return 0


def _recommend(path: Path, options: Recommend) -> None:
    from fedjax_rec.cli.config_file import user_errors
    from fedjax_rec.experiment.load import experiment_of, load
    from fedjax_rec.report import lists
    from fedjax_rec.runs.folder import read_run
    from fedjax_rec.runs.model import read_model
    from fedjax_rec.runs.session import set_up_jax

    lists.check(options.output)
    users = list(options.user)
    items = [item for words in options.items for item in words.split(",")]
    read_model(path)
    experiment = experiment_of(read_run(path))
    set_up_jax(experiment.execution.dtype, experiment.mesh.devices)
    with user_errors():
        model = load(path)
        sim, seen = model.simulation, not options.include_seen
        if items:
            users = ["new user"]
            found = [model.recommend(history=items, k=options.k, exclude_seen=seen)]
        else:
            users = users or sim.served_users()
            found = model.recommend(users, options.k, exclude_seen=seen)
    if options.output is None:
        lists.show(users, found)
    else:
        lists.write(options.output, users, found)
        print(f"written: {options.output}")
