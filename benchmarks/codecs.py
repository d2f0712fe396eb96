"""Seconds of encoding and decoding all messages of a PFedRec round, codec by codec.

    python benchmarks/codecs.py [--only NAME ...] [--repeats 5] [--json FILE]

The clients are those of ML-100K as a round sees them (of the same shape and synthetic
where the data are not at hand): 8 size buckets, chunks as the engine cuts them, item
tables of 1,682 x 32, as many rows touched as a client has pairs, ids scattered and a
tenth of them padding. Figures (lower is better):

- `NAME_s`: encode and decode of 943 messages, in chunks, on one device;
- `NAME_to_round`: that over the seconds of one whole PFedRec round without a codec,
  timed in the same process (aimed at 1 or less);
- `NAME_mib`: what the 943 messages take together.

Medians of interleaved repetitions.
"""

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these codecs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    import numpy as np

    from fedjax_rec.codecs import CODECS

    unknown = set(args.only or ()) - set(CODECS)
    if unknown:
        parser.error(f"unknown codecs {sorted(unknown)}; known: {', '.join(CODECS)}")
    simulation = pfedrec(args.repeats)
    programs: dict[str, Callable] = {"round": lambda: simulation.advance(1)}
    sizes = {}
    for name in args.only or CODECS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        programs[name], sizes[name] = program(CODECS[name](), simulation)
    seconds = {name: [] for name in programs}
    for _ in range(args.repeats):
        for name, run in programs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    figures = {"round_s": float(np.median(seconds.pop("round")))}
    for name, times in seconds.items():
        figures[f"{name}_s"] = float(np.median(times))
        figures[f"{name}_to_round"] = figures[f"{name}_s"] / figures["round_s"]
        figures[f"{name}_mib"] = sizes[name] / 8 / 2**20
    print(json.dumps(figures, indent=2))
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(figures, indent=2) + "\n")
        partial.replace(args.json)


def pfedrec(repeats: int):
    from fedjax_rec import (
        Execution,
        Experiment,
        FileData,
        PFedRec,
        SyntheticData,
        build,
    )

    root = pathlib.Path(__file__).parents[1]
    real = pathlib.Path(os.environ.get("FEDJAX_REC_DATA", root / "../shared/data"))
    data = SyntheticData(num_users=943, num_items=1682, num_interactions=100_000)
    if (real / "ml-100k").is_dir():
        data = FileData(source="movielens-100k", dir=str(real / "ml-100k"))
    experiment = Experiment(
        name="codecs",
        data=data,
        algorithm=PFedRec(),
        execution=Execution(max_buckets=8),
        rounds=repeats + 2,
        eval_every=1,
    )
    simulation = build(experiment)
    simulation.advance(1)
    return simulation


def program(codec, simulation):
    """`(run, bits)`: a function that codes everybody's message, and its size."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec import rows
    from fedjax_rec.codecs import num_bits

    items, d = 1682, 32
    table = {"item": rows.Table(values=jnp.zeros((items, d)))}
    rng = np.random.default_rng(0)
    widths, chunks = simulation.data.widths, simulation.chunks
    clients = np.bincount(np.asarray(simulation.data.buckets), minlength=len(widths))

    def chunk(ids, values, state, key):
        delta = {"item": rows.Rows(ids=ids, values=values, num_rows=items)}
        message, _ = codec.encode(delta, state, key)
        decoded = codec.decode(message)["item"]
        return num_bits(message), decoded.values.sum() + decoded.ids.sum()

    @jax.jit
    def bucket(ids, values, state, trips):
        def step(i, carry):
            bits, total = carry
            keys = jax.random.split(jax.random.fold_in(jax.random.key(0), i), len(ids))
            # The carry goes in, so that no pass is left out.
            coded, sums = jax.vmap(chunk, (0, 0, None, 0))(
                ids, values + 1e-30 * total, state, keys
            )
            return bits + coded.sum(), total + sums.sum() * 1e-30

        start = (jnp.uint32(0), jnp.float32(0))
        return jax.lax.fori_loop(0, trips, step, start)

    inputs = []
    for width, v, count in zip(widths, chunks, clients, strict=True):
        r = min(5 * width, 10 * items)
        ids = np.full((v, r), items, np.int32)
        for row in ids:
            real = rng.choice(items, min(int(r * 0.9), items), replace=False)
            row[rng.choice(r, len(real), replace=False)] = real
        values = rng.normal(size=(v, r, d)).astype(np.float32)
        trips = jnp.int32(-(-int(count) // v))
        inputs.append((jnp.asarray(ids), jnp.asarray(values), codec.init(table), trips))

    def run():
        return [bits for bits, _ in jax.block_until_ready([bucket(*x) for x in inputs])]

    return run, sum(int(bits) for bits in run())


if __name__ == "__main__":
    main()
