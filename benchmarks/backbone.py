"""Seconds of a round through a frozen backbone, for each path, and its memory.

    python benchmarks/backbone.py [--json FILE] [--only NAME ...] [--repeats N]

all-MiniLM-L6-v2, 16 clients, each with two local steps of 8 texts of 32 tokens: LoRA of
rank 8 on query and value, the head, the vector common to all users and a personal user
vector, binary cross-entropy, plain SGD, dropout off, and the mean of the clients. Parts
(`--only`):

- `speed`: `full_lora_ratio_torch`, clients/s of LoRA in all 6 layers relative to a
  sequential loop of PyTorch, transformers and peft (needs the `bench` extra; the losses
  of every client and step, and all final parameters, are compared);
  `suffix1_ratio_full_uncached` and `suffix2_...`, LoRA in the last layers on the cached
  output of those before, `suffix1_uncached_...`, the same computed in full, and
  `embedding_...`, a net on cached embeddings, all relative to LoRA in all layers;
- `packed`: `packed_ratio_padded`, texts of the lengths of titles with genres, several
  in a row relative to one in a row padded to the longest;
- `memory`: `*_peak_mib`, of a separate process that runs two rounds (interpreter,
  weights and compiler included; on an accelerator, of the device), and `*_program_mib`,
  the temporary memory of the compiled round;
- `gpu`: only on an accelerator, LoRA in all layers in float32 and bfloat16, cohorts of
  256 to 4,096: clients/s, tokens/s, model FLOP/s relative to the peak of a big bfloat16
  product measured in the same process, and the device's peak memory.
  `--gpu-mode-small` runs it on any machine, at a tiny size: a test of the program, not
  a measurement.

Figures are medians of interleaved repetitions in one process; two rounds before them do
not count. `*_round_s` is wall time and `*_cpu_s` processor time of all threads. On a
machine with other users, compare the latter with `--cores 1`: PyTorch's threads wait
for one another by spinning.
"""

import argparse
import json
import os
import pathlib
import sys
import tempfile
from typing import Any

import harness

NAMES = ("speed", "packed", "memory", "gpu")
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
        "--cores", type=int, help="number of cores (Linux); default all"
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
            # This process never starts JAX, which would take the accelerator from its
            # children.
            return harness.run_child(__file__, name, str(args.repeats), root)

        machine = run("machine")
        for name in children(args.only, machine["backend"], args.gpu_mode_small):
            harness.progress(f"{name} ...")
            figures |= run(name)
    harness.write({"figures": figures, "machine": machine}, args.json)


def children(parts: list[str], backend: str, small: bool) -> list[str]:
    """Names of the processes to run, in order."""
    names = []
    for part in parts:
        if part == "memory":
            # The first writes the prefix caches, which the others read.
            names += ["prefix", *(f"memory:{way}" for way in MEMORY)]
        elif part != "gpu":
            names.append(part)
        elif small or backend != "cpu":
            names.append("gpu:small" if small else "gpu")
    return names


def child(name: str, repeats: int, root: str) -> dict:
    """Measures one part; runs in a separate process."""
    import backbone_gpu
    import backbone_measure as measure

    name, _, which = name.partition(":")
    if name == "machine":
        return harness.machine("torch", "transformers", "peft")
    if name == "gpu":
        small = which == "small"
        return backbone_gpu.measure((4, 8) if small else COHORTS, repeats, small=small)
    if name == "packed":
        return measure.packed(repeats)
    work = measure.same_lengths(root)
    if name == "speed":
        return measure.speed(work, repeats, ("torch", *MEMORY[:-1]))
    if name == "prefix":
        for way in ("suffix1", "suffix2", "embedding"):
            measure.make(work, way)
        return {}
    return measure.memory(work, which)


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "--child":
        print(json.dumps(child(sys.argv[2], int(sys.argv[3]), sys.argv[4])))
    else:
        main()
