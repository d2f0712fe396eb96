"""Trains on one data set, and ranks another one for its users.

usage: fedjax-rec transfer CONFIG [--target NAME] [--target.FIELD VALUE]
                           [--few-shot.FIELD VALUE] [--output DIR] [--overwrite]
                           [--plugin FILE] [--quiet] [--FIELD VALUE]

Trains the experiment that CONFIG describes (FedFM with users=History(), everything
shared), then ranks another data set's items for its users, from their histories and
without training: next to random, the target's popularity, the same model with the
target's texts shuffled, and the model before training. Then every target user's client
takes a few local steps on its own history, and is ranked for again.

  fedjax-rec transfer configs/transfer_ml_to_games.py \\
      --data.dir ~/ml-latest-small --target amazon --target.data.dir ~/amazon-games
  fedjax-rec transfer CONFIG --target.users 1000 --few-shot.steps 1 2 4 8

--target NAME is a source of `fedjax-rec data prepare`, by default amazon, or a kind of
data that a file after --plugin declares.
`fedjax-rec transfer CONFIG --help` lists the fields with their values and meaning.

The folder (by default runs/NAME-ALGORITHM-DATA-sSEED-to-TARGET) then holds
config.json, versions.json, metrics.jsonl, timings.jsonl, result.json, report.md, and
few_shot.png with the extra `analysis`.
"""

from fedjax_rec.cli import explain
from fedjax_rec.cli.arguments import apply_flags, read_arguments, usage
from fedjax_rec.cli.config_file import (
    check_data,
    load_config,
    load_plugins,
    named_config,
    user_errors,
)
from fedjax_rec.cli.config_names import listing
from fedjax_rec.cli.data import data_of
from fedjax_rec.cli.options import Transfer
from fedjax_rec.storage.errors import UserError
from fedjax_rec.transfer.config import Target, check

HELP = __doc__ or ""


def main(args: list[str]) -> int:
    """Runs the command."""
    path, rest = named_config(args)
    if not path:
        return usage(HELP + listing(), args)
    flags, words = read_arguments(rest)
    load_plugins(flags)
    experiment, doc = load_config(path)
    names = [values for name, values in flags if name == "target"]
    if any(len(values) != 1 for values in names):
        raise UserError("--target: expected the name of one source")
    try:
        target = Target(data=data_of(names[-1][0])) if names else Target()
    except UserError as error:
        raise UserError(f"--target: {error}") from error
    flags = [flag for flag in flags if flag[0] != "target"]
    options, experiment = apply_flags(flags, Transfer(target=target), experiment)
    if words is not None:
        title = f"usage: fedjax-rec transfer {path} [--target NAME] [--FIELD VALUE ...]"
        print(explain.asked(words, options, experiment, title, doc), end="")
        return 0
    with user_errors():
        check(experiment, options.target)
    check_data(experiment.data)
    check_data(options.target.data, "--target.data.")
    from fedjax_rec.cli.transferring import transfer

    transfer(experiment, options)
    return 0
