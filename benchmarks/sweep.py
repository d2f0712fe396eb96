"""24 points as one program, against 24 runs one after another.

    python benchmarks/sweep.py [--data DIR] [--json FILE] [--rounds 20] [--buckets 6]

8 learning rates and 3 seeds of PFedRec on ML-100K (of the same shape and synthetic
without --data). Each side starts with an empty compilation cache and prepared data:

- `fedjax-rec sweep`, one process; before the loop and after it, and the mean counts,
  since a shared machine is not equally fast all the time;
- `fedjax-rec train` 24 times, as a loop in a shell would: a fresh process each, of
  which the first compiles and the others find its programs in the cache.

Figures: `sweep24_speedup`, wall time of the loop over that of the sweep, compilation
included (and `sweep24_cpu_ratio`, the same of processor time, which other users of the
machine disturb less); `sweep24_metric_difference` and `sweep24_loss_difference`, the
largest between the two sides over all points, metrics of both parts, and rounds.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import harness

RATES = tuple(0.0015625 * 2**i for i in range(8))  # from .4 rounding is amplified
SEEDS = (0, 1, 2)

CONFIG = '''"""PFedRec, shortened."""
from fedjax_rec import Execution, Experiment, FileData, PFedRec, SyntheticData

def get_config():
    return Experiment(
        name="sweep24",
        data={data},
        algorithm=PFedRec(),
        execution=Execution(max_buckets={buckets}),
        rounds={rounds},
        eval_every=5,
    )
'''


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=pathlib.Path, help="folder of ML-100K")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--buckets", type=int, default=6, help="as execution.max_buckets"
    )
    args = parser.parse_args()
    if args.data is not None and not args.data.exists():
        parser.error(f"--data {args.data}: no such folder")
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(args, pathlib.Path(folder))
    harness.write(figures, args.json)


def compare(args: argparse.Namespace, root: pathlib.Path) -> dict[str, float]:
    data = "SyntheticData(num_users=943, num_items=1682, num_interactions=100_000)"
    if args.data is not None:
        data = (
            f"FileData(dir={str(args.data.absolute())!r}, cache={str(root / 'data')!r})"
        )
    config = root / "sweep24.py"
    config.write_text(
        CONFIG.format(data=data, rounds=args.rounds, buckets=args.buckets)
    )
    if args.data is not None:  # neither side pays for reading the original files
        prepare = ["data", "prepare", "movielens-100k", "--dir", str(args.data)]
        run(root / "unused", *prepare, "--cache", str(root / "data"))
    grid = ",".join(map(str, RATES))

    def sweep(name: str) -> tuple[float, float]:
        found = run(
            root / f"cache_{name}", "sweep", str(config), "--output", str(root / name),
            "--grid", f"algorithm.client-lr={grid}", "--grid", f"seed=0:{len(SEEDS)}",
        )  # fmt: skip
        print(f"sweep: {found[0]:.1f} s", file=sys.stderr, flush=True)
        return found

    before, cpu_before = sweep("sweep")
    loop = cpu_loop = 0.0
    for rate in RATES:
        for seed in SEEDS:
            seconds, cpu = run(
                root / "cache_loop", "train", str(config), "--quiet",
                "--algorithm.client-lr", str(rate), "--seed", str(seed),
                "--output", str(root / "loop" / f"client_lr={rate:.6g},seed={seed}"),
            )  # fmt: skip
            loop, cpu_loop = loop + seconds, cpu_loop + cpu
            print(f"{rate:g}, {seed}: {seconds:.1f} s", file=sys.stderr, flush=True)
    after, cpu_after = sweep("again")
    one, cpu_one = (before + after) / 2, (cpu_before + cpu_after) / 2
    metric, loss = differences(root / "sweep", root / "loop")
    return {
        "sweep24_speedup": loop / one,
        "sweep24_cpu_ratio": cpu_loop / cpu_one,
        "sweep24_before_s": before,
        "sweep24_after_s": after,
        "loop24_s": loop,
        "sweep24_cpu_s": cpu_one,
        "loop24_cpu_s": cpu_loop,
        "sweep24_metric_difference": metric,
        "sweep24_loss_difference": loss,
        "rounds": args.rounds,
        "buckets": args.buckets,
        "cores": os.cpu_count() or 0,
    }


def run(cache: pathlib.Path, *args: str) -> tuple[float, float]:
    """Wall and processor seconds of a command."""
    environment = {**os.environ, "FEDJAX_REC_CACHE": str(cache)}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "fedjax_rec", *args],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(args)} failed:\n{done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return seconds, cpu


def differences(left: pathlib.Path, right: pathlib.Path) -> tuple[float, float]:
    """The largest of any metric and of any round's loss, over all points."""
    folders = sorted(right.iterdir())
    if len(folders) != len(RATES) * len(SEEDS):
        raise SystemExit(f"{right} holds {len(folders)} runs")
    metric = loss = 0.0
    for folder in folders:
        ours, theirs = results(left / folder.name), results(folder)
        if ours[0]["selected"] != theirs[0]["selected"]:
            print(f"{folder.name}: another round is selected", file=sys.stderr)
        for part, values in theirs[0]["metrics"].items():
            for name, value in values.items():
                metric = max(metric, abs(value - ours[0]["metrics"][part][name]))
        for a, b in zip(ours[1], theirs[1], strict=True):
            if (a is None) != (b is None):
                raise SystemExit(f"{folder.name}: finite on one side only")
            loss = max(loss, abs((a or 0) - (b or 0)))
    return metric, loss


def results(folder: pathlib.Path):
    events = (folder / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in events]
    losses = [e["loss"] for e in events if e["event"] == "round"]
    return json.loads((folder / "result.json").read_text()), losses


if __name__ == "__main__":
    main()
