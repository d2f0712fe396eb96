"""A round's time and memory as the population grows and the cohort does not.

    python benchmarks/population.py [--clients 10000 100000 1000000] [--json FILE]

Matrix factorization, 64 floats of personal state a client, about 100 interactions a
client among 50,000 items, cohorts of 1,000. Clients' data and personal state are memory
maps on disk; every round draws its cohort from all of them and brings it in. A process
each; between them nothing is shared.

- `population_flatness`: seconds of a round with the most clients over those with the
  fewest, medians; 1 is flat;
- `round_s_N`, `device_mib_N` (what the round's program holds: arguments, results,
  temporaries), `host_peak_mib_N` (of the process, without the pages of the maps, which
  the system may drop), `waited_N` (share of the time in which the device waited).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

COHORT, ITEMS, MEAN, DIM = 1_000, 50_000, 100, 64


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--rounds", type=int, default=40, help="counted rounds")
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    args = parser.parse_args()
    if min(args.clients) < COHORT or args.rounds < 1:
        parser.error(f"--clients must be at least {COHORT}, --rounds at least 1")
    figures: dict[str, float] = {}
    for count in args.clients:
        print(f"{count:,} clients ...", file=sys.stderr, flush=True)
        command = [sys.executable, __file__, "--child", str(count), str(args.rounds)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures |= json.loads(out.stdout.splitlines()[-1])
    few, many = min(args.clients), max(args.clients)
    figures["population_flatness"] = (
        figures[f"round_s_{many}"] / figures[f"round_s_{few}"]
    )
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    from rounds import machine

    figures_and_machine = {"figures": figures, "machine": machine()}
    print(json.dumps(figures_and_machine, indent=2))
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(figures_and_machine, indent=2) + "\n")
        partial.replace(args.json)


def write_clients(folder: pathlib.Path, count: int):
    """Client data as memory maps, made some thousands of clients at a time."""
    import numpy as np

    from fedjax_rec.data.clients import ClientData, Ragged

    rng = np.random.default_rng(0)
    size = np.clip(rng.lognormal(np.log(MEAN) - 0.125, 0.5, count), 10, 500)
    size = size.astype(np.int32)
    offset = np.cumsum(size, dtype=np.int64) - size
    total = int(size.sum()) + 1

    def mapped(name, dtype):
        path = folder / f"{name}.npy"
        return np.lib.format.open_memmap(path, "w+", dtype, (total,))

    item, user = mapped("item", np.int32), mapped("user", np.int32)
    rating = mapped("rating", np.float32)
    for first in range(0, count, 10_000):
        sizes = size[first : first + 10_000]
        at, n = int(offset[first]), int(sizes.sum())
        # Gaps that cannot add up to more than the catalog: ascending and distinct.
        widest = np.repeat(2 * ITEMS // (2 * sizes), sizes)
        gaps = 1 + (rng.random(n) * (widest - 1)).astype(np.int64)
        start = np.cumsum(sizes) - sizes
        summed = np.cumsum(gaps)
        summed -= np.repeat(summed[start] - gaps[start], sizes)
        item[at : at + n] = summed - 1
        user[at : at + n] = np.repeat(np.arange(first, first + len(sizes)), sizes)
        rating[at : at + n] = 1
    widths = tuple(int(np.quantile(size, q)) for q in (0.5, 0.9, 1))
    for array in (item, user, rating):
        array.flush()
    item, user, rating = (
        np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("item", "user", "rating")
    )
    rows: Any = {"offset": offset, "size": size}
    arrays = {
        "interactions": Ragged(
            columns={"item": item, "user": user, "rating": rating}, **rows
        ),
        "exclude": Ragged(columns={"item": item}, **rows),
        "buckets": np.searchsorted(widths, size).astype(np.int32),
    }
    return ClientData(
        **arrays,
        num_items=ITEMS,
        num_users=count,
        widths=widths,
        exclude_widths=widths,
    )


def child(count: int, rounds: int) -> None:
    os.environ.setdefault("NPROC", "1")
    import jax

    from fedjax_rec.runs.session import cores

    jax.config.update("jax_num_cpu_devices", cores())
    import numpy as np

    from fedjax_rec import SGD, FedAvg
    from fedjax_rec.core.context import Context
    from fedjax_rec.fleet import sampling
    from fedjax_rec.simulation import mesh as meshes
    from fedjax_rec.simulation.chunks import chunk_sizes
    from fedjax_rec.simulation.hosted import Hosted
    from fedjax_rec.simulation.round import federated

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = pathlib.Path(name)
        started = time.perf_counter()
        data = write_clients(folder, count)
        mesh, key = meshes.make_mesh(), jax.random.key(0)
        context = Context(
            num_items=ITEMS,
            num_users=count,
            num_clients=count,
            cohort_size=COHORT,
            dtype=np.dtype("float32"),
            examples=np.asarray(data.interactions.size),
        )
        recipe = FedAvg(dim=DIM, client_optimizer=SGD(lr=1.0)).build(context)
        chunks = chunk_sizes(data, 2_000, COHORT, meshes.shares(mesh))
        algorithm = federated(recipe, chunks, devices=meshes.client_axis(mesh))
        population = Hosted(
            recipe,
            algorithm,
            sampling.uniform(count, COHORT),
            data,
            mesh,
            key,
            rounds,
            folder,
        )
        state = meshes.place(mesh, algorithm.init(key))
        hparams = meshes.place(mesh, recipe.hparams)
        built = time.perf_counter() - started
        state, _ = population.advance(state, (), hparams, 3)  # compiles
        seconds = []
        population.waited = 0.0
        for _ in range(5):
            begun = time.perf_counter()
            state, log = population.advance(state, (), hparams, rounds)
            seconds.append((time.perf_counter() - begun) / rounds)
        memory = _device_bytes(population, state, hparams)
        anonymous = _anonymous_mib()
    print(
        f"  {count:,} clients, {int(data.interactions.size.sum()):,} interactions: "
        f"built {built:.0f} s, rounds {np.round(seconds, 4)} s, loss "
        f"{log['loss'][-1]:.4f}",
        file=sys.stderr,
        flush=True,
    )
    waited = population.waited / (5 * rounds * np.mean(seconds))
    print(
        json.dumps(
            {
                f"round_s_{count}": float(np.median(seconds)),
                f"device_mib_{count}": memory / 2**20,
                f"host_peak_mib_{count}": anonymous,
                f"waited_{count}": float(waited),
            }
        )
    )


def _device_bytes(population, state, hparams) -> int:
    """What one device holds while a round runs."""
    import jax

    drawn = jax.device_get(population._draw(population._key, 0))
    ready = population._fetch(jax.tree.map(lambda x: x[0], drawn), None)
    inputs = (state, ready.personal, ready.data, ready.placed, ready.rows)
    rest = ((), hparams, population._placed_key)
    program = population._round.lower(*inputs, *rest).compile()
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _anonymous_mib() -> float:
    """Memory of this process that no file backs, now."""
    for line in pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "--child":
        child(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
