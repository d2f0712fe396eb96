"""LoRA in all layers on an accelerator, by cohort and type: for `backbone.py`."""

import functools
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from backbone_measure import peak_mib, timed
from backbone_ways import (
    BATCH,
    RANK,
    STEPS,
    TARGETS,
    TOKENS,
    Ours,
    Path,
    Workload,
    workload,
)


def measure(cohorts: Sequence[int], repeats: int, *, small: bool) -> dict[str, float]:
    """Figures for every type and cohort.

    Args:
        cohorts: clients of a round, ascending, as the device's peak never falls.
        repeats: counted rounds.
        small: whether to use a tiny backbone, to test the program.
    """
    name, size = ("tiny", 256) if small else ("minilm", 8192)
    peak = matmul_peak("bfloat16", size)
    print(f"  peak of a product, bfloat16: {peak / 1e12:.3f} TFLOP/s", file=sys.stderr)
    figures = {
        "gpu_matmul_peak_bfloat16_tflops": peak / 1e12,
        "gpu_matmul_peak_float32_tflops": matmul_peak("float32", size) / 1e12,
    }
    for cohort in cohorts:
        for dtype in ("bfloat16", "float32"):  # the larger last
            work = workload(name, cohort, np.full(1024, TOKENS), dtype=dtype)
            way = f"gpu_{dtype}_{cohort}"
            running = Ours(work, Path(work.backbone.num_layers))
            figures |= timed({way: running}, repeats)
            seconds = figures[f"{way}_round_s"]
            texts = cohort * BATCH * STEPS
            flops = model_flops(work, texts * TOKENS, texts) / seconds
            figures |= {
                f"{way}_clients_per_s": cohort / seconds,
                f"{way}_tokens_per_s": texts * TOKENS / seconds,
                f"{way}_model_tflops": flops / 1e12,
                f"{way}_fraction_of_matmul_peak": flops / peak,
                f"{way}_program_mib": running.program_mib(),
                f"{way}_peak_mib_so_far": peak_mib(),
            }
            shown = {k: v for k, v in figures.items() if k.startswith(f"{way}_")}
            print(f"  {shown}", file=sys.stderr, flush=True)
            del running, work
            jax.clear_caches()
    return figures


@functools.cache
def matmul_peak(dtype: str, size: int) -> float:
    """FLOP/s of the fastest of some products `[size, size]` of a type."""
    x = jax.random.normal(jax.random.key(0), (size, size)).astype(dtype)

    @jax.jit
    def product(x, y):
        return x @ y

    best = np.inf
    for _ in range(10):
        started = time.perf_counter()
        product(x, x).block_until_ready()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def model_flops(work: Workload, tokens: int, texts: int) -> float:
    """FLOPs of the products in a step of LoRA in every layer, without padding.

    Forward: each linear map, attention's two products and the LoRA. Backward: the same
    for the gradient of the activations, and that of the LoRA's matrices, but none for
    frozen weights; below the lowest layer's query, key and value no parameter trains.
    """
    backbone = work.backbone
    width, layers = backbone.width, backbone.num_layers
    linear = sum(a * b for a, b in backbone.sites.values())
    low_rank = sum(RANK * sum(backbone.sites[site]) for site in TARGETS)
    mixed = 2 * width * tokens / texts  # each token with its text's, twice
    once = 2 * tokens * (linear + low_rank + mixed) * layers
    lowest = 2 * tokens * (3 * width * width + RANK * width * len(TARGETS))
    # Both factors of attention's and the LoRA's products have a gradient.
    more = 2 * tokens * (low_rank + mixed) * layers
    return 2 * once - lowest + more
