"""LoRA in all layers on an accelerator, by cohort and type: for `backbone.py`."""

import sys

import jax
import numpy as np
from backbone import TOKENS, peak_mib, timed
from backbone_ways import BATCH, STEPS, Ours, Path, matmul_peak, model_flops, workload


def measure(cohorts, repeats: int, *, small: bool) -> dict[str, float]:
    """Figures of every type and cohort.

    Args:
        cohorts: clients of a round; the device's peak only grows, so small ones first.
        repeats: counted rounds.
        small: a tiny backbone, to try the program.
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
            lengths = np.full(1024, TOKENS)
            work = workload(name, cohort, lengths, dtype=dtype)
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
            told = {k: v for k, v in figures.items() if k.startswith(f"{way}_")}
            print(f"  {told}", file=sys.stderr, flush=True)
            del running, work
            jax.clear_caches()
    return figures
