"""Figures of the rounds in `backbone_ways.py`: for `backbone.py`."""

import pathlib
import resource
import sys
import time
from collections.abc import Collection
from typing import Any

import backbone_ways
import jax
import numpy as np
from backbone_ways import Ours, Path, Workload

CLIENTS, TEXTS = 16, 256


def same_lengths(root: str) -> Workload:
    """Texts of one length, with prefix caches in `root`."""
    lengths = np.full(TEXTS, backbone_ways.TOKENS)
    return backbone_ways.workload("minilm", CLIENTS, lengths, root=pathlib.Path(root))


def make(work: Workload, way: str) -> Any:
    """A way by its name; `None` if a package is missing."""
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
    """Medians `{way}_round_s` and `{way}_cpu_s`; a repetition runs every way.

    Args:
        running: ways by name.
        repeats: counted repetitions.
        often: names of short ways, which run 20 rounds a repetition.
    """
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
    for name, rounds in seconds.items():
        median = float(np.median(rounds))
        low, high = np.percentile(rounds, [25, 75])
        print(
            f"  {name}: {median:.4f} s a round (quartiles {low:.4f} to {high:.4f}, min "
            f"{min(rounds):.4f}), {running[name].clients / median:,.1f} clients/s, "
            f"{np.median(processor[name]):.4f} s of processor",
            file=sys.stderr,
            flush=True,
        )
        figures[f"{name}_round_s"] = median
        figures[f"{name}_round_s_quartiles"] = [float(low), float(high)]
        figures[f"{name}_cpu_s"] = float(np.median(processor[name]))
    return figures


def speed(work: Workload, repeats: int, ways: Collection[str]) -> dict[str, Any]:
    """Seconds and ratios of all ways, after a check that they compute the same."""
    running = {way: made for way in ways if (made := make(work, way)) is not None}
    figures = {}
    ours = running["full_lora"]
    losses, short = ours.losses(), running["suffix1"].losses()
    difference = np.abs(short - running["suffix1_uncached"].losses()).max()
    what = "losses of suffix k=1, cached and not,"
    figures["suffix1_gap_losses"] = agree(what, float(difference), 1e-5)
    if "torch" in running:
        running["torch"].step()
        ours.step()
        difference = np.abs(losses - running["torch"].losses_seen).max()
        what = "losses of each client and step, ours and PyTorch's,"
        figures["torch_gap_losses"] = agree(what, float(difference), 1e-4)
        difference = gap(ours.parameters(), running["torch"].parameters())
        what = "parameters after a round, ours and PyTorch's,"
        figures["torch_gap_parameters"] = agree(what, difference, 1e-4)
    figures |= timed(running, repeats, often=("embedding",))
    difference = gap(
        running["suffix1"].parameters(), running["suffix1_uncached"].parameters()
    )
    what = f"parameters of suffix k=1 after {2 + repeats} rounds, cached and not,"
    figures["suffix1_gap_parameters"] = agree(what, difference, 1e-4)
    full = figures["full_lora_round_s"]
    for way in running:
        figures[f"{way}_clients_per_s"] = CLIENTS / figures[f"{way}_round_s"]
        if way not in ("full_lora", "torch"):
            figures[f"{way}_ratio_full_uncached"] = full / figures[f"{way}_round_s"]
    if "torch" in running:
        figures["full_lora_ratio_torch"] = figures["torch_round_s"] / full
        ratio = figures["torch_cpu_s"] / figures["full_lora_cpu_s"]
        figures["full_lora_cpu_ratio_torch"] = ratio
    return figures


def gap(a: dict, b: dict) -> float:
    """The largest difference of two ways' parameters."""
    assert a.keys() == b.keys(), (sorted(a), sorted(b))
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def agree(what: str, difference: float, most: float) -> float:
    """Returns the difference, or exits if it is too large."""
    print(f"  {what} differ by {difference:.1e}", file=sys.stderr, flush=True)
    if not difference <= most:
        raise SystemExit(f"{what} differ by {difference:.1e} > {most:.0e}")
    return difference


def packed(repeats: int) -> dict[str, Any]:
    """Lengths of ML-100K's titles with genres, to the longest of 33 tokens."""
    rng = np.random.default_rng(0)
    lengths = np.clip(np.rint(rng.lognormal(2.67, 0.22, TEXTS)), 3, 33).astype(int)
    lengths[0] = 33
    work = backbone_ways.workload("minilm", CLIENTS, lengths)
    layers = work.backbone.num_layers
    running = {
        "packed": Ours(work, Path(layers, per_row=4)),
        "padded": Ours(work, Path(layers)),
    }
    difference = np.abs(running["packed"].losses() - running["padded"].losses()).max()
    figures = {
        "packed_gap_losses": agree(
            "losses, packed and padded,", float(difference), 1e-4
        ),
        "packed_mean_tokens": float(lengths.mean()),
        **timed(running, repeats),
    }
    ratio = figures["padded_round_s"] / figures["packed_round_s"]
    return {**figures, "packed_ratio_padded": ratio}


def memory(work: Workload, way: str) -> dict[str, Any]:
    """Peak memory of two rounds, and temporary memory of the compiled round."""
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
    """Peak memory of the device if it reports one, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
