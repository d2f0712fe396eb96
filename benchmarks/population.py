"""Time and memory of a round as the population grows and the cohort does not.

    python benchmarks/population.py [--clients 10000 100000 1000000] [--rounds 40]
        [--json FILE]

Matrix factorization, 64 floats of personal state and about 100 interactions per client,
50,000 items, cohorts of 1,000. Clients' data and personal state are memory maps on
disk; each round draws its cohort from all clients and copies it to the devices. Each
number of clients is measured in a separate process.

- `population_flatness`: median seconds of a round with the most clients over those with
  the fewest; 1 is flat;
- `round_s_N`: median seconds of a round with N clients;
- `device_mib_N`: memory of the round's program: arguments, results, temporaries;
- `host_peak_mib_N`: memory of the process, without the pages of the maps, which the
  system may drop;
- `waited_N`: share of the time that the device waited for the host.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import harness

if TYPE_CHECKING:
    from fedjax_rec.core.contracts import Recipe
    from fedjax_rec.data.clients import ClientData

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
        harness.progress(f"{count:,} clients ...")
        figures |= harness.run_child(__file__, str(count), str(args.rounds))
    few, many = min(args.clients), max(args.clients)
    figures["population_flatness"] = (
        figures[f"round_s_{many}"] / figures[f"round_s_{few}"]
    )
    harness.write({"figures": figures, "machine": harness.machine()}, args.json)


def write_clients(folder: pathlib.Path, count: int) -> "ClientData":
    """Client data as memory maps, generated 10,000 clients at a time."""
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
        begin, n = int(offset[first]), int(sizes.sum())
        block = slice(begin, begin + n)
        # Gaps that cannot add up to more than the catalog: ascending and distinct.
        widest = np.repeat(2 * ITEMS // (2 * sizes), sizes)
        gaps = 1 + (rng.random(n) * (widest - 1)).astype(np.int64)
        start = np.cumsum(sizes) - sizes
        summed = np.cumsum(gaps)
        summed -= np.repeat(summed[start] - gaps[start], sizes)
        item[block] = summed - 1
        user[block] = np.repeat(np.arange(first, first + len(sizes)), sizes)
        rating[block] = 1
    widths = tuple(int(np.quantile(size, q)) for q in (0.5, 0.9, 1))
    for array in (item, user, rating):
        array.flush()
    item, user, rating = (
        np.load(folder / f"{n}.npy", mmap_mode="r") for n in ("item", "user", "rating")
    )
    lists: Any = {"offset": offset, "size": size}
    arrays: Any = {
        "interactions": Ragged(
            columns={"item": item, "user": user, "rating": rating}, **lists
        ),
        "exclude": Ragged(columns={"item": item}, **lists),
        "buckets": np.searchsorted(widths, size).astype(np.int32),
    }
    return ClientData(
        **arrays,
        num_items=ITEMS,
        num_users=count,
        widths=widths,
        exclude_widths=widths,
    )


def child(count: int, rounds: int) -> dict[str, float]:
    """Figures with `count` clients; runs in a separate process."""
    os.environ.setdefault("NPROC", "1")
    import jax

    from fedjax_rec.runs.session import cores

    jax.config.update("jax_num_cpu_devices", cores())
    import numpy as np

    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        started = time.perf_counter()
        data = write_clients(pathlib.Path(name), count)
        run = Run(data, rounds, pathlib.Path(name))
        built = time.perf_counter() - started
        run.advance(3)  # compiles
        run.population.waited, seconds, loss = 0.0, [], 0.0
        for _ in range(5):
            started = time.perf_counter()
            loss = run.advance(rounds)
            seconds.append((time.perf_counter() - started) / rounds)
        figures = {
            f"round_s_{count}": float(np.median(seconds)),
            f"device_mib_{count}": run.device_bytes() / 2**20,
            f"host_peak_mib_{count}": _anonymous_mib(),
            f"waited_{count}": float(
                run.population.waited / (5 * rounds * np.mean(seconds))
            ),
        }
    harness.progress(
        f"  {count:,} clients, {int(data.interactions.size.sum()):,} interactions: "
        f"built {built:.0f} s, rounds {np.round(seconds, 4)} s, loss {loss:.4f}"
    )
    return figures


def recipe_of(count: int) -> "Recipe":
    """Matrix factorization for `count` clients."""
    import numpy as np

    from fedjax_rec import SGD, FedAvg, MatrixFactorization
    from fedjax_rec.core.context import Context

    context = Context(
        num_items=ITEMS,
        num_users=count,
        num_clients=count,
        cohort_size=COHORT,
        dtype=np.dtype("float32"),
        examples=np.full(count, MEAN),
    )
    return FedAvg(
        model=MatrixFactorization(dim=DIM), client_optimizer=SGD(lr=1.0)
    ).build(context)


class Run:
    """Rounds over a population on disk."""

    def __init__(self, data: "ClientData", rounds: int, folder: pathlib.Path):
        import jax

        from fedjax_rec.fleet import sampling
        from fedjax_rec.simulation import mesh as meshes
        from fedjax_rec.simulation.chunks import chunk_sizes
        from fedjax_rec.simulation.hosted import Hosted
        from fedjax_rec.simulation.programs import Programs
        from fedjax_rec.simulation.resident import Setup
        from fedjax_rec.simulation.round import federated

        count, mesh, key = data.num_clients, meshes.make_mesh(), jax.random.key(0)
        recipe = recipe_of(count)
        chunks = chunk_sizes(data, 2_000, COHORT, meshes.shares(mesh))
        algorithm = federated(recipe, chunks, devices=meshes.client_axis(mesh))
        sampler = sampling.uniform(count, COHORT)
        setup = Setup(
            recipe,
            sampler,
            Programs(recipe, sampler),
            chunks,
            False,
            data,
            mesh,
            key,
            rounds,
        )
        self.population = Hosted(setup, folder)
        self.state = meshes.place(mesh, algorithm.init(key))
        self.hparams = meshes.place(mesh, recipe.hparams)

    def advance(self, count: int) -> float:
        """Runs `count` rounds and returns the last one's loss."""
        self.state, log = self.population.advance(self.state, (), self.hparams, count)
        return float(log["loss"][-1])

    def device_bytes(self) -> int:
        """Memory of one device while a round runs."""

        population = self.population
        drawn = population._cohort_of(0)
        ready = population._fetch(drawn, None)
        cohort = (ready.personal, ready.data, ready.placed, ready.rows)
        program = population._round.lower(
            self.state, *cohort, (), self.hparams, population._placed_key
        ).compile()
        memory = program.memory_analysis()
        return (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
            - memory.alias_size_in_bytes
        )


def _anonymous_mib() -> float:
    """Memory of this process that is not backed by a file, now."""
    for line in pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1]) / 1024
    return float("nan")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
