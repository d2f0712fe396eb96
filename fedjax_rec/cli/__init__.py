"""Simulates federated recommendation from the command line.

usage: fedjax-rec COMMAND ...

Thousands of clients run as one compiled program, and the evaluation cannot leak.

commands:
  train CONFIG             run an experiment: progress, a table, a folder of results
  sweep CONFIG             many settings and seeds as one program; a table and plots
  transfer CONFIG          train on one data set, rank untrained for users of another
  data prepare SOURCE      read a data set once into the cache; show counts and notes
  data describe WHAT       numbers (and a plot) of how clients share the data
  backbone fetch minilm    bring a frozen foundation model into the cache, verified
  backbone describe WHAT   its layers, and where an adapter attaches
  recommend RUN            the items that a trained model ranks first for users
  export RUN               its parameters as safetensors, with ids and config
  check FILE               whether the parts in a Python file obey their laws
  report RUN...            compare runs; mean and spread where only the seed differs

examples:
  fedjax-rec train quickstart
  fedjax-rec train quickstart --algorithm.training.lr 0.3 --rounds 50
  fedjax-rec train configs/fedmf_ml100k.py --data.dir ~/ml-100k --seed 1
  fedjax-rec train --resume runs/mine
  fedjax-rec sweep configs/sweep_pfedrec.py --grid seed=0:3
  fedjax-rec transfer configs/transfer_ml_to_games.py --target amazon
  fedjax-rec data describe synthetic --partition dirichlet --plot skew.png
  fedjax-rec recommend runs/mine --user 7 -k 10
  fedjax-rec check capped.py
  fedjax-rec report runs/* --output comparison

CONFIG is a Python file, or the name of a config of the package (`fedjax-rec train
--help` lists them). `fedjax-rec COMMAND --help` explains a command; `fedjax-rec train
CONFIG --help` lists every field of an experiment with its value. `python -m fedjax_rec`
is the same command.
"""

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import fedjax_rec
from fedjax_rec.cli.config_names import shipped
from fedjax_rec.storage.errors import UserError

COMMANDS = (
    "train", "sweep", "transfer", "data", "backbone", "recommend", "export", "check",
    "report",
)  # fmt: skip

HELP = __doc__ or ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    An error that the user can correct is a short message and status 2. Any other error
    is a fault of the package and keeps its traceback, which `FEDJAX_REC_DEBUG=1` always
    shows.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit status: 0 done, 2 wrong arguments, 130 interrupted.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if args else 2
    if args[0] == "--version":
        print(f"fedjax-rec {fedjax_rec.__version__}")
        return 0
    name, *words = args
    if name not in COMMANDS:
        return _fail(_unknown(name))
    command = importlib.import_module(f"fedjax_rec.cli.{name}").main
    try:
        return command(words)
    except UserError as error:
        if os.environ.get("FEDJAX_REC_DEBUG"):
            traceback.print_exc()
        return _fail(str(error))
    except KeyboardInterrupt:
        print("\nfedjax-rec: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `fedjax-rec ... | head`: the reader left. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, n=1)
    if name.endswith(".py") or name in shipped():
        hint = f"\nDid you mean: fedjax-rec train {name}"
    else:
        hint = f"\nDid you mean: fedjax-rec {near[0]}" if near else ""
    return f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}{hint}"


def _fail(message: str) -> int:
    print(f"fedjax-rec: error: {message}", file=sys.stderr)
    return 2
