"""The cost that codecs, aggregation rules and wrappers add to a round.

    python benchmarks/codecs.py [--system pfedrec|lora] [--codecs KIND ...]
        [--rules KIND ...] [--wrappers KIND ...] [--repeats N] [--json FILE]

A KIND is a name that `fedjax-rec train CONFIG --help codec` (or `aggregation`,
`wrapper`) shows, such as `top_k` or `top_k+qsgd`, with settings after commas:
`power_sgd,rank=2`, `median,voting=diluted`.

The configurations take turns in one process, one whole round each. Figures are medians,
and ratios are relative to the round without a codec under the algorithm's own rule:

- `KIND_s`: seconds of a round;
- `KIND_more`: `KIND_s` over that of the plain round, minus one (aimed at 1 for
  `pfedrec` and at .15 for `lora`);
- `KIND_mb`: megabytes that all clients of a round send.

`pfedrec` is configs/pfedrec_ml100k.py, all 943 clients; `lora` the experiment of that
name in configs/front_ml100k.py, 64 clients. If MovieLens 100K is not found, synthetic
data of the same shape replace it.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import time
from typing import Any

import harness
from ml100k import experiment_of

from fedjax_rec import Experiment, build
from fedjax_rec.cli.arguments import apply_flags
from fedjax_rec.cli.options import Train
from fedjax_rec.storage.errors import UserError

CODECS = (
    "bf16", "block_int", "qsgd", "drive", "sign", "top_k", "top_k+qsgd",
    "power_sgd",
)  # fmt: skip
SYSTEMS = {
    "pfedrec": ("pfedrec_ml100k", "pfedrec_ml100k"),
    "lora": ("front_ml100k", "lora"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", choices=tuple(SYSTEMS), default="pfedrec")
    parser.add_argument("--codecs", nargs="*", metavar="KIND", default=CODECS)
    parser.add_argument("--rules", nargs="*", metavar="KIND", default=())
    parser.add_argument("--wrappers", nargs="*", metavar="KIND", default=())
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    config, name = SYSTEMS[args.system]
    plain = experiment_of(config, name)
    plain = dataclasses.replace(plain, codec=None, rounds=args.repeats + 2)
    slots = {"codec": args.codecs, "aggregation": args.rules, "wrapper": args.wrappers}
    experiments = {"plain": plain}
    try:
        for slot, kinds in slots.items():
            experiments |= {kind: with_kind(plain, slot, kind) for kind in kinds}
    except UserError as error:
        parser.error(str(error))
    harness.write(measure(experiments, args.repeats), args.json)


def with_kind(experiment: Experiment, slot: str, text: str) -> Experiment:
    """The experiment with a part of another kind.

    Args:
        experiment: the experiment to change.
        slot: field of the part.
        text: the kind, and settings after commas.

    Raises:
        UserError: there is no such kind or setting.
    """
    kind, *settings = text.split(",")
    flags = [(slot, [kind])]
    for setting in settings:
        field, _, value = setting.partition("=")
        flags.append((f"{slot}.{field}", [value]))
    return apply_flags(flags, Train(), experiment)[1]


def measure(experiments: dict[str, Experiment], repeats: int) -> dict[str, float]:
    """Figures of all experiments, relative to `plain`."""
    simulations: dict[str, Any] = {}
    megabytes = {}
    for name, experiment in experiments.items():
        harness.progress(f"{name} ...")
        simulations[name] = build(experiment)
        metrics = simulations[name].advance(1)  # compiles
        megabytes[name] = metrics.get("up_bytes", [0])[0] / 1e6
    seconds = {name: [] for name in simulations}
    for _ in range(repeats):
        for name, simulation in simulations.items():
            started = time.perf_counter()
            simulation.advance(1)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    plain = medians.pop("plain")
    figures = {"plain_s": plain}
    for name, median in medians.items():
        figures[f"{name}_s"] = median
        figures[f"{name}_more"] = median / plain - 1
        if megabytes[name]:
            figures[f"{name}_mb"] = float(megabytes[name])
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


if __name__ == "__main__":
    main()
