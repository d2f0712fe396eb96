"""Seconds of a round through a frozen backbone, path by path, and its memory.

    python benchmarks/backbone.py [--json FILE] [--only NAME ...] [--repeats N]

all-MiniLM-L6-v2, 16 clients, each two local steps of 8 texts of 32 tokens: LoRA of rank
8 on query and value, the head, what users share and a personal user vector, binary
cross-entropy, plain SGD, dropout off, and the mean of the clients. Parts (`--only`):

- `speed`: `full_lora_ratio_torch`, clients/s of LoRA in all 6 layers against a
  sequential loop of PyTorch, transformers and peft (needs the `bench` extra; the losses
  of every client and step, and all end parameters, are compared);
  `suffix1_ratio_full_uncached` and `suffix2_...`, LoRA in the last layers on the cached
  output of those before, `suffix1_uncached_...`, the same computed in full, and
  `embedding_...`, a net on cached embeddings, against our own LoRA in all layers;
- `packed`: `packed_ratio_padded`, texts of the lengths of titles with genres, several
  in a row against one in a row padded to the longest;
- `memory`: `*_peak_mib`, of a process of its own that runs two rounds (interpreter,
  weights and compiler included; on an accelerator, of the device), and `*_program_mib`,
  the temporary memory of the compiled round alone;
- `gpu`: only on an accelerator, LoRA in all layers in float32 and bfloat16, cohorts of
  256 to 4,096: clients/s, tokens/s, model FLOP/s over the peak of a big bfloat16
  product measured in the same process, and the device's peak memory.
  `--gpu-mode-small` runs it anywhere, tiny: a test of the program, not a measurement.

Medians of interleaved repetitions in one process; two rounds before them do not count.
Beside the seconds (`*_round_s`) stand those of processor time (`*_cpu_s`, of all
threads). On a machine that others use too, `--cores 1` and the latter are what can be
compared: PyTorch's threads wait for one another by spinning.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

NAMES = ("speed", "packed", "memory", "gpu")
CLIENTS, TEXTS, TOKENS = 16, 256, 32
MEMORY = ("full_lora", "suffix2", "suffix1", "suffix1_uncached", "embedding", "torch")
COHORTS = (256, 1024, 4096)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="also write the figures here")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--repeats", type=int, default=7, help="counted rounds")
    parser.add_argument("--gpu-mode-small", action="store_true")
    parser.add_argument(
        "--cores", type=int, help="use so many (Linux); by default all there are"
    )
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error(f"--repeats must be at least 1, got {args.repeats}")
    if args.cores is not None:
        if not hasattr(os, "sched_setaffinity"):
            parser.error("--cores needs Linux")
        allowed = sorted(os.sched_getaffinity(0))
        if not 1 <= args.cores <= len(allowed):
            parser.error(f"--cores must be 1 to {len(allowed)}, got {args.cores}")
        os.sched_setaffinity(0, allowed[: args.cores])  # the children inherit it
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as root:

        def run(name: str) -> dict:
            # A process each: peaks of memory are of one workload. This one never starts
            # JAX, which would take the accelerator from them.
            command = [sys.executable, __file__, "--child", name, str(args.repeats)]
            out = subprocess.run(
                [*command, root], check=True, stdout=subprocess.PIPE, text=True
            )
            return json.loads(out.stdout.splitlines()[-1])

        machine = run("machine")
        children = []
        for name in args.only:
            if name == "memory":
                # The first keeps the prefixes on disk, which the others only read.
                children += ["prefix", *(f"memory:{way}" for way in MEMORY)]
            elif name != "gpu":
                children.append(name)
            elif args.gpu_mode_small:
                children.append("gpu:small")
            elif machine["backend"] != "cpu":
                children.append("gpu")
        for name in children:
            print(f"{name} ...", file=sys.stderr, flush=True)
            figures |= run(name)
    found = {"figures": figures, "machine": machine}
    print(json.dumps(found, indent=2))
    if args.json:
        partial = args.json.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=2) + "\n")
        partial.replace(args.json)


def child(name: str, repeats: int, root: str) -> dict:
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    name, _, which = name.partition(":")
    if name == "machine":
        return machine()
    if name == "gpu":
        import backbone_gpu

        small = which == "small"
        return backbone_gpu.measure((4, 8) if small else COHORTS, repeats, small=small)
    if name == "packed":
        return packed(repeats)
    work = same_lengths(root)
    if name == "speed":
        return speed(work, repeats)
    if name == "prefix":
        for way in ("suffix1", "suffix2", "embedding"):
            make(work, way)
        return {}
    return memory(work, which)


def machine() -> dict[str, str | int | None]:
    import importlib.metadata

    import backbone_ways
    import jax

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": backbone_ways.cores(),
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        **{p: version(p) for p in ("jax", "torch", "transformers", "peft")},
    }


def same_lengths(root: str):
    import backbone_ways
    import numpy as np

    lengths = np.full(TEXTS, TOKENS)
    return backbone_ways.workload("minilm", CLIENTS, lengths, root=pathlib.Path(root))


def make(work, way: str):
    """A way by its name; `None` where a package is missing."""
    from backbone_ways import Ours, Path

    paths = {
        "full_lora": Path(work.backbone.num_layers),
        "suffix2": Path(2),
        "suffix1": Path(1),
        "suffix1_uncached": Path(1, cached=False),
        "embedding": Path(0),
    }
    if way in paths:
        return Ours(work, paths[way])
    try:
        from backbone_torch import Torch

        return Torch(work)
    except ImportError as error:
        print(f"  torch left out: {error}; install fedjax-rec[bench]", file=sys.stderr)
        return None


def timed(running: dict, repeats: int, often: tuple[str, ...] = ()) -> dict[str, Any]:
    """`{way}_round_s` and `{way}_cpu_s`, medians; a repetition runs every way."""
    import numpy as np

    seconds: dict[str, list[float]] = {name: [] for name in running}
    processor: dict[str, list[float]] = {name: [] for name in running}
    for repeat in range(2 + repeats):
        for name, way in running.items():
            for _ in range(20 if name in often else 1):
                started, used = time.perf_counter(), time.process_time()
                way.step()
                if repeat >= 2:
                    processor[name].append(time.process_time() - used)
                    seconds[name].append(time.perf_counter() - started)
    figures = {}
    for name, found in seconds.items():
        median = float(np.median(found))
        low, high = np.percentile(found, [25, 75])
        print(
            f"  {name}: {median:.4f} s a round (quartiles {low:.4f} to {high:.4f}, min "
            f"{min(found):.4f}), {running[name].clients / median:,.1f} clients/s, "
            f"{np.median(processor[name]):.4f} s of processor",
            file=sys.stderr,
            flush=True,
        )
        figures[f"{name}_round_s"] = median
        figures[f"{name}_round_s_quartiles"] = [float(low), float(high)]
        figures[f"{name}_cpu_s"] = float(np.median(processor[name]))
    return figures


def gap(a: dict, b: dict) -> float:
    """The largest difference of two ways' parameters."""
    import numpy as np

    assert a.keys() == b.keys(), (sorted(a), sorted(b))
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def agree(what: str, difference: float, most: float) -> float:
    print(f"  {what} differ by {difference:.1e}", file=sys.stderr, flush=True)
    if not difference <= most:
        raise SystemExit(f"{what} differ by {difference:.1e} > {most:.0e}")
    return difference


def speed(work, repeats: int) -> dict[str, Any]:
    import numpy as np

    running = {}
    for way in ("torch", *MEMORY[:-1]):
        if (made := make(work, way)) is not None:
            running[way] = made
    figures = {}
    ours = running["full_lora"]
    losses, short = ours.losses(), running["suffix1"].losses()
    apart = np.abs(short - running["suffix1_uncached"].losses()).max()
    what = "losses of suffix k=1, cached and not,"
    figures["suffix1_gap_losses"] = agree(what, float(apart), 1e-5)
    if "torch" in running:
        running["torch"].step()
        ours.step()
        apart = np.abs(losses - running["torch"].losses_seen).max()
        what = "losses of each client and step, ours and PyTorch's,"
        figures["torch_gap_losses"] = agree(what, float(apart), 1e-4)
        apart = gap(ours.parameters(), running["torch"].parameters())
        what = "parameters after a round, ours and PyTorch's,"
        figures["torch_gap_parameters"] = agree(what, apart, 1e-4)
    figures |= timed(running, repeats, often=("embedding",))
    apart = gap(
        running["suffix1"].parameters(), running["suffix1_uncached"].parameters()
    )
    what = f"parameters of suffix k=1 after {2 + repeats} rounds, cached and not,"
    figures["suffix1_gap_parameters"] = agree(what, apart, 1e-4)
    full = figures["full_lora_round_s"]
    for way in MEMORY[1:-1]:
        figures[f"{way}_ratio_full_uncached"] = full / figures[f"{way}_round_s"]
    if "torch" in running:
        figures["full_lora_ratio_torch"] = figures["torch_round_s"] / full
        ratio = figures["torch_cpu_s"] / figures["full_lora_cpu_s"]
        figures["full_lora_cpu_ratio_torch"] = ratio
    for way in running:
        figures[f"{way}_clients_per_s"] = CLIENTS / figures[f"{way}_round_s"]
    return figures


def packed(repeats: int) -> dict[str, Any]:
    """Lengths of ML-100K's titles with genres, to the longest of 33 tokens."""
    import backbone_ways
    import numpy as np
    from backbone_ways import Ours, Path

    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(2.67, 0.22, TEXTS)), 3, 33).astype(int)
    lengths[0] = 33
    work = backbone_ways.workload("minilm", CLIENTS, lengths)
    layers = work.backbone.num_layers
    running = {
        "packed": Ours(work, Path(layers, per_row=4)),
        "padded": Ours(work, Path(layers)),
    }
    apart = np.abs(running["packed"].losses() - running["padded"].losses()).max()
    figures = {
        "packed_gap_losses": agree("losses, packed and padded,", float(apart), 1e-4),
        "packed_mean_tokens": float(lengths.mean()),
        **timed(running, repeats),
    }
    ratio = figures["padded_round_s"] / figures["packed_round_s"]
    return {**figures, "packed_ratio_padded": ratio}


def memory(work, way: str) -> dict[str, Any]:
    from backbone_ways import Ours

    running = make(work, way)
    if running is None:
        return {}
    for _ in range(2):
        running.step()
    figures = {f"{way}_peak_mib": peak_mib()}
    if isinstance(running, Ours):
        figures[f"{way}_program_mib"] = running.program_mib()
    print(f"  { {k: round(v) for k, v in figures.items()} }", file=sys.stderr)
    return figures


def peak_mib() -> float:
    """Of the device where it says, else of this process."""
    import jax

    told = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in told:
        return told["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--child":
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        main()
