"""Seconds of a whole federated round, and the same round by other means.

    python benchmarks/rounds.py [--json FILE] [--only NAME ...]

Figures (lower is better but for ratios):

- `pfedrec_ml100k_round_s`: PFedRec, 943 clients of ML-100K (of the same shape and
  synthetic where the data are not at hand), sampling, training and aggregation;
- `pfedrec_ml1m_round_s`: the same at 6,040 x 3,706 with 1 M interactions;
- `pfedrec_100k_round_s`, `pfedrec_100k_peak_mib`: 100,000 clients, 100,000 items, 3 M
  interactions; the peak is of a process of its own, data and compiler included;
- `mf256_*`: one matrix-factorization workload by a sequential PyTorch loop, by DrJAX,
  by a `vmap` over whole tables, and by this library (needs the `bench` extra).

Medians of interleaved repetitions in one process; end parameters are compared.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

NAMES = ("ml100k", "ml1m", "100k", "mf256")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    figures: dict[str, float] = {}
    for name in args.only:
        print(f"{name} ...", file=sys.stderr, flush=True)
        # A process each: peaks of memory are of one workload, caches are cold alike.
        command = [sys.executable, __file__, "--child", name, str(args.repeats)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures |= json.loads(out.stdout.splitlines()[-1])
    figures_and_machine = {"figures": figures, "machine": machine()}
    print(json.dumps(figures_and_machine, indent=2))
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(figures_and_machine, indent=2) + "\n")
        partial.replace(args.json)


def machine() -> dict[str, str | int | None]:
    import jax

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }


def child(name: str, repeats: int) -> None:
    if name == "mf256":
        sys.path.insert(0, str(pathlib.Path(__file__).parent))
        import peers

        figures = peers.compare(repeats)
    else:
        seconds = pfedrec_round(name, repeats)
        figures = {f"pfedrec_{name}_round_s": seconds}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        figures[f"pfedrec_{name}_peak_mib"] = peak
    print(json.dumps(figures))


def pfedrec_round(name: str, repeats: int) -> float:
    """Median seconds of a round after the one that compiles."""
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    import numpy as np

    from fedjax_rec import (
        Execution,
        Experiment,
        FileData,
        PFedRec,
        SyntheticData,
        build,
    )

    shapes = {
        "ml100k": (943, 1682, 100_000),
        "ml1m": (6040, 3706, 1_000_000),
        "100k": (100_000, 100_000, 3_000_000),
    }
    users, items, interactions = shapes[name]
    data = SyntheticData(
        num_users=users, num_items=items, num_interactions=interactions
    )
    root = pathlib.Path(__file__).parents[1]
    real = pathlib.Path(os.environ.get("FEDJAX_REC_DATA", root / "../shared/data"))
    if name == "ml100k" and (real / "ml-100k").is_dir():
        data = FileData(source="movielens-100k", dir=str(real / "ml-100k"))
    experiment = Experiment(
        name=name,
        data=data,
        algorithm=PFedRec(),
        # For a run of many rounds the least padding is worth its compile time.
        execution=Execution(max_buckets=8),
        rounds=repeats + 1,
        eval_every=1,
    )
    started = time.perf_counter()
    simulation = build(experiment)
    built = time.perf_counter() - started
    seconds = []
    for _ in range(repeats + 2):
        started = time.perf_counter()
        log = simulation.advance(1)
        seconds.append(time.perf_counter() - started)
    print(
        f"  {name}: build {built:.1f} s, first round {seconds[0]:.1f} s, then "
        f"{np.median(seconds[2:]):.4f} s (min {min(seconds):.4f}); buckets "
        f"{simulation.data.widths}, chunks {simulation.chunks}; "
        f"{ {k: round(float(v[0]), 4) for k, v in log.items()} }",
        file=sys.stderr,
        flush=True,
    )
    return float(np.median(seconds[2:]))


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--child":
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main()
