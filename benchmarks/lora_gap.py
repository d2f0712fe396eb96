"""Distance between the mean of LoRA's factors and the mean of the clients' products.

    python benchmarks/lora_gap.py [--alphas 0.03 0.1 0.3 1 3 30] [--seeds 5]
        [--rounds 3] [--client-lr 0.1] [--backbone tiny|minilm] [--output docs/lora_gap]

Each of 32 clients holds ten synthetic users with tastes skewed by genre: the smaller
the concentration alpha, the more clients differ. The `lora_gap` of a round is the
Frobenius norm of `mean(A_i B_i) - mean(A_i) mean(B_i)` divided by that of
`mean(A_i B_i)`, over all adapted maps. Writes OUTPUT.json and OUTPUT.png.
"""

import argparse
import json
import os
import pathlib
import statistics

import harness

from fedjax_rec import (
    SGD,
    BackboneConfig,
    Dirichlet,
    Execution,
    Experiment,
    FedFM,
    FedIT,
    History,
    Joint,
    LoRA,
    SyntheticData,
    build,
)

ROOT = pathlib.Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    alphas = [0.03, 0.1, 0.3, 1, 3, 30]
    parser.add_argument("--alphas", nargs="+", type=float, default=alphas)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--client-lr", type=float, default=0.1)
    parser.add_argument("--backbone", choices=("tiny", "minilm"), default="tiny")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs/lora_gap")
    args = parser.parse_args()
    for name in ("seeds", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if min(args.alphas) <= 0:
        parser.error(f"--alphas must be positive, got {min(args.alphas)}")
    os.environ.setdefault("NPROC", "1")  # as the command line does, see session.py
    gaps = {}
    for alpha in args.alphas:
        gaps[alpha] = [last_gap(alpha, seed, args) for seed in range(args.seeds)]
        shown = ", ".join(f"{gap:.4f}" for gap in gaps[alpha])
        harness.progress(f"alpha {alpha:g}: {shown}")
    write(gaps, args.output)


def last_gap(alpha: float, seed: int, args: argparse.Namespace) -> float:
    """`lora_gap` of the last round."""
    experiment = Experiment(
        name="lora_gap",
        data=SyntheticData(num_users=320, num_items=300, num_interactions=9000),
        partition=Dirichlet(num_clients=32, alpha=alpha, seed=seed),
        algorithm=FedFM(
            adapter=LoRA(targets=("ffn/down",)),
            users=History(length=8),
            training=Joint(optimizer=SGD(lr=args.client_lr)),
            negatives=2,
            batch_size=96,
        ),
        wrapper=FedIT(),
        backbone=BackboneConfig(name=args.backbone),
        execution=Execution(max_buckets=1, encode="per_client"),
        rounds=args.rounds,
        eval_every=args.rounds,
        seed=seed,
    )
    return float(build(experiment).advance(args.rounds)["lora_gap"][-1])


def write(gaps: dict[float, list[float]], output: pathlib.Path) -> None:
    """Writes the values and a plot of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    alphas = sorted(gaps)
    axes.plot(alphas, [statistics.median(gaps[a]) for a in alphas], color="C0")
    for alpha in alphas:
        axes.plot([alpha] * len(gaps[alpha]), gaps[alpha], "o", color="C0")
    axes.set(xscale="log", yscale="log", title="one dot per seed, and the median")
    axes.set(xlabel="Dirichlet alpha (small: clients differ)", ylabel="lora_gap")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    partial = output.with_suffix(".partial.png")
    figure.savefig(partial, dpi=120)
    partial.replace(output.with_suffix(".png"))
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps({str(a): gaps[a] for a in alphas}, indent=2) + "\n")
    partial.replace(output.with_suffix(".json"))


if __name__ == "__main__":
    main()
