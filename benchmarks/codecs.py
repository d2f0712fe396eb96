"""Time that codecs and aggregation rules add to a round.

    python benchmarks/codecs.py [--system pfedrec|lora] [--codecs NAME ...]
        [--rules NAME ...] [--repeats 7] [--json FILE]

Whole rounds, one after another in one process, each configuration once in every turn;
figures are medians, and ratios are to the round without a codec under the algorithm's
own rule:

- `NAME_s`: seconds of a round;
- `NAME_more`: `NAME_s` over the plain round's, less one (aimed at 1 for `pfedrec` and
  at .15 for `lora`);
- `NAME_mb`: megabytes that all clients of a round send.

`pfedrec` is configs/pfedrec_ml100k.py, all 943 clients; `lora` the experiment of that
name in configs/front_ml100k.py, 64 clients. Synthetic data of the same shape take the
place of MovieLens 100K if that is not at hand.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).parents[1]
CODECS = (
    "bf16", "block_int", "qsgd", "drive", "sign", "top_k", "top_k+qsgd", "power_sgd"
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--system", choices=("pfedrec", "lora"), default="pfedrec")
    parser.add_argument("--codecs", nargs="*", metavar="NAME", default=CODECS)
    parser.add_argument("--rules", nargs="*", metavar="NAME", default=())
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    from fedjax_rec import build
    from fedjax_rec.experiment.fields import with_values

    plain = experiment(args.system, args.repeats + 2)
    wanted = {"plain": plain}
    for name in args.codecs:
        wanted[name] = with_values(plain, {"codec": name})
    for rule in args.rules:
        wanted[rule] = with_values(plain, {"aggregation": rule})
    simulations, sent = {}, {}
    for name, config in wanted.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        simulations[name] = build(config)
        log = simulations[name].advance(1)  # compiles
        sent[name] = log.get("up_bytes", [0])[0] / 1e6
    seconds = {name: [] for name in simulations}
    for _ in range(args.repeats):
        for name, simulation in simulations.items():
            started = time.perf_counter()
            simulation.advance(1)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    figures = {"plain_s": medians["plain"]}
    for name, median in list(medians.items())[1:]:
        figures[f"{name}_s"] = median
        figures[f"{name}_more"] = median / medians["plain"] - 1
        if sent[name]:
            figures[f"{name}_mb"] = float(sent[name])
    figures = {name: float(f"{value:.4g}") for name, value in figures.items()}
    print(json.dumps(figures, indent=2))
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(figures, indent=2) + "\n")
        partial.replace(args.json)


def experiment(system: str, rounds: int):
    """The config, on real data where they are, for a few rounds."""
    from fedjax_rec import FileData, SyntheticData

    file = {"pfedrec": "pfedrec_ml100k", "lora": "front_ml100k"}[system]
    spec = importlib.util.spec_from_file_location(file, ROOT / f"configs/{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.get_config()
    if isinstance(found, tuple):
        (found,) = (one for one in found if one.name == system)
    real = pathlib.Path(os.environ.get("FEDJAX_REC_DATA", ROOT / "../shared/data"))
    data = SyntheticData(num_users=943, num_items=1682, num_interactions=100_000)
    if (real / "ml-100k").is_dir():
        data = FileData(source="movielens-100k", dir=str(real / "ml-100k"))
    return dataclasses.replace(found, data=data, rounds=rounds, eval_every=1)


if __name__ == "__main__":
    main()
