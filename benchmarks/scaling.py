"""Devices: speed of two, work per device of many, and time to the first round.

    python benchmarks/scaling.py [--only NAME ...] [--json FILE]

- `two`: `two_device_speedup`, the time of a PFedRec round on ML-100K (synthetic data of
  the same shape if it is not found) on one CPU device of one thread, over that of the
  same round on two; both in one process, rounds interleaved, medians.
- `weak`: `flops_of_D`, `bytes_of_D`, `sent_of_D`: cost of the compiled round for *each*
  of D virtual devices (XLA's count) when the clients grow with the devices, and the
  bytes of its all-reduce. Clients have one size and one batch and run in one chunk, so
  that no loop hides work from the count. `weak_scaling_D` is the FLOPs of a single
  device over those of one of D: 1 is perfect.
- `start`: `first_round_cold_s` and `first_round_warm_s`: from the start of the process
  to the end of its first PFedRec ML-100K round, with an empty and with a full cache of
  compiled programs.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import harness

NAMES = ("two", "weak", "start")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--repeats", type=int, default=25, help="counted rounds")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    figures: dict[str, float] = {}
    if "two" in args.only:
        figures |= child("two", str(args.repeats))
    if "weak" in args.only:
        for devices in (1, 2, 4, 8):
            figures |= child("weak", str(devices))
        for devices in (2, 4, 8):
            figures[f"weak_scaling_{devices}"] = (
                figures["flops_of_1"] / figures[f"flops_of_{devices}"]
            )
    if "start" in args.only:
        figures |= starts()
    harness.write({"figures": figures, "machine": harness.machine()}, args.json)


def child(*arguments: str) -> dict[str, float]:
    harness.progress(f"{' '.join(arguments)} ...")
    return harness.run_child(__file__, *arguments)


def starts() -> dict[str, float]:
    """First rounds of fresh processes; the second finds what the first compiled."""
    figures = {}
    with tempfile.TemporaryDirectory() as cache:
        env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": cache}
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.02"
        command = [sys.executable, __file__, "--child", "start"]
        subprocess.run([*command, "prepare"], check=True, stdout=subprocess.PIPE)
        for name in ("cold", "warm"):
            begun = time.perf_counter()
            process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE)
            assert process.stdout is not None
            process.stdout.readline()
            figures[f"first_round_{name}_s"] = time.perf_counter() - begun
            process.wait()
    return figures


def pfedrec(devices: int):
    """The experiment of `configs/pfedrec_ml100k.py` on some devices."""
    import dataclasses

    from ml100k import experiment_of

    from fedjax_rec import MeshConfig

    experiment = experiment_of("pfedrec_ml100k", "pfedrec_ml100k")
    return dataclasses.replace(experiment, mesh=MeshConfig(devices=devices))


def two(repeats: int) -> dict[str, float]:
    os.environ.setdefault("NPROC", "1")
    import jax

    jax.config.update("jax_num_cpu_devices", 2)
    import numpy as np

    from fedjax_rec import build

    runs = {devices: build(pfedrec(devices)) for devices in (1, 2)}
    seconds = {devices: [] for devices in runs}
    for i in range(repeats + 2):
        for devices, run in runs.items():
            begun = time.perf_counter()
            run.advance(1)
            if i > 1:
                seconds[devices].append(time.perf_counter() - begun)
    one, both = (float(np.median(seconds[devices])) for devices in (1, 2))
    return {
        "one_device_round_s": one,
        "two_device_round_s": both,
        "two_device_speedup": one / both,
    }


def weak(devices: int) -> dict[str, float]:
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from fedjax_rec import PFedRec
    from fedjax_rec.core.context import Context
    from fedjax_rec.data.clients import lay_out
    from fedjax_rec.data.interactions import Entities, make_interactions
    from fedjax_rec.data.partition import PerUser
    from fedjax_rec.fleet import sampling
    from fedjax_rec.simulation import mesh as meshes
    from fedjax_rec.simulation.programs import Programs
    from fedjax_rec.simulation.resident import Resident, Setup
    from fedjax_rec.simulation.round import federated

    clients, each, items = 128 * devices, 50, 2_000
    rng = np.random.default_rng(0)
    train = make_interactions(
        user=np.repeat(np.arange(clients), each),
        item=np.concatenate(
            [rng.choice(items, each, replace=False) for _ in range(clients)]
        ),
        users=Entities(ids=[str(u) for u in range(clients)]),
        items=Entities(ids=[str(i) for i in range(items)]),
    )
    data = lay_out(train, PerUser().partition(train), max_buckets=1)
    context = Context(
        num_items=items,
        num_users=clients,
        num_clients=clients,
        cohort_size=clients,
        dtype=np.dtype("float32"),
        examples=np.full(clients, each),
    )
    recipe = PFedRec(batch_size=each * 5).build(context)
    mesh, key = meshes.make_mesh(), jax.random.key(0)
    algorithm = federated(recipe, (128,), devices=meshes.client_axis(mesh))
    sampler = sampling.everyone(clients)
    how = (Programs(recipe, sampler), (128,), False)
    population = Resident(Setup(recipe, sampler, *how, data, mesh, key, 1))
    state = meshes.place(mesh, algorithm.init(key))
    program = population._run_rounds.lower(
        state,
        population._personal,
        population.data,
        (),
        meshes.place(mesh, recipe.hparams),
        population._key,
        population._placed_slots,
        population._tables,
        np.int32(1),
    ).compile()
    cost, text = program.cost_analysis() or {}, program.as_text() or ""
    return {
        f"flops_of_{devices}": cost["flops"],
        f"bytes_of_{devices}": cost["bytes accessed"],
        f"sent_of_{devices}": float(_all_reduced(text)),
    }


def _all_reduced(text: str) -> int:
    """Bytes that one device puts into the program's all-reduces."""
    total = 0
    for shapes in re.findall(r"= (.*) all-reduce\(", text):
        for dims in re.findall(r"[fsu]32\[([\d,]*)\]", shapes):
            size = 4
            for n in filter(None, dims.split(",")):
                size *= int(n)
            total += size
    return total


def start(prepare: bool = False) -> None:
    from fedjax_rec.runs.session import set_up_jax

    experiment = pfedrec(0)
    set_up_jax()
    if prepare:  # the data set's own cache
        experiment.data.load(False)
        return
    from fedjax_rec import build

    simulation = build(experiment)
    simulation.advance(1)
    print("done", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        kind, *rest = sys.argv[2:]
        if kind == "start":
            start(bool(rest))
        else:
            print(json.dumps({"two": two, "weak": weak}[kind](int(rest[0]))))
    else:
        main()
