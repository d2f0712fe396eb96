"""Seconds of a whole federated round, also by other means.

    python benchmarks/rounds.py [--only NAME ...] [--repeats N] [--json FILE]

Figures (lower is better, except for ratios and clients/s):

- `pfedrec_ml100k_round_s`: PFedRec, 943 clients of ML-100K (synthetic data of the same
  shape if it is not found): sampling, training and aggregation;
- `pfedrec_ml1m_round_s`: the same for 6,040 users, 3,706 items and 1 M interactions;
- `pfedrec_100k_round_s`, `pfedrec_100k_peak_mib`: 100,000 clients, 100,000 items, 3 M
  interactions; the peak is that of a separate process, data and compiler included;
- `mf256_*`: one matrix-factorization workload by this library, by a `vmap` over whole
  tables, by DrJAX, and by a sequential PyTorch loop (the last two need the `bench`
  extra).

Figures are medians of repetitions in one process; those of `mf256` are interleaved, and
final parameters are compared.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import time

import harness

NAMES = ("ml100k", "ml1m", "100k", "mf256")
SHAPES = {
    "ml1m": (6040, 3706, 1_000_000),
    "100k": (100_000, 100_000, 3_000_000),
}


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
        harness.progress(f"{name} ...")
        figures |= harness.run_child(__file__, name, str(args.repeats))
    harness.write({"figures": figures, "machine": harness.machine()}, args.json)


def child(name: str, repeats: int) -> dict[str, float]:
    """Measures one part; runs in a separate process."""
    if name == "mf256":
        import peers

        return peers.compare(repeats)
    seconds = pfedrec_round(name, repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {f"pfedrec_{name}_round_s": seconds, f"pfedrec_{name}_peak_mib": peak}


def pfedrec_round(name: str, repeats: int) -> float:
    """Median seconds of a round; the first two do not count."""
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    import numpy as np
    from ml100k import ml100k

    from fedjax_rec import Execution, Experiment, PFedRec, SyntheticData, build

    data = ml100k()
    if name in SHAPES:
        users, items, interactions = SHAPES[name]
        data = SyntheticData(
            num_users=users, num_items=items, num_interactions=interactions
        )
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
    seconds, metrics = [], {}
    for _ in range(repeats + 2):
        started = time.perf_counter()
        metrics = simulation.advance(1)
        seconds.append(time.perf_counter() - started)
    harness.progress(
        f"  {name}: build {built:.1f} s, first round {seconds[0]:.1f} s, then "
        f"{np.median(seconds[2:]):.4f} s (min {min(seconds):.4f}); buckets "
        f"{simulation.data.widths}, chunks {simulation.chunks}; "
        f"{ {k: round(float(v[0]), 4) for k, v in metrics.items()} }"
    )
    return float(np.median(seconds[2:]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]))))
    else:
        main()
