"""Figure of how clients share the data."""

import os

import numpy as np

from fedjax_rec.data.describe import Description
from fedjax_rec.report.tables import panels, save


def plot(description: Description, path: str | os.PathLike[str]) -> None:
    """Draws sizes, label divergences and popularity's tail into an image file.

    Args:
        description: The description.
        path: Image file; its suffix selects the format (`.png`, `.pdf`, `.svg`).

    Raises:
        ImportError: Matplotlib is not installed.
    """
    d = description
    figure, (sizes, divergence, tail) = panels(3, (13, 4))
    figure.suptitle(f"{d.data}: {d.partition}, {d.clients:,} clients", fontsize=12)
    _draw_sizes(sizes, d)
    _draw_divergence(divergence, d)
    _draw_tail(tail, d)
    save(figure, path)


def _draw_sizes(axes, d: Description) -> None:
    ranked = np.sort(d.sizes)[::-1]
    # A logarithmic axis if a few large clients would flatten all others.
    skewed = d.size_quantiles["largest"] > 10 * d.size_quantiles["median"]
    bottom = 0.7 if skewed else 0
    # 800 steps look the same as 100,000, and are drawn at once.
    edges = np.unique(np.linspace(0, d.clients, min(d.clients, 800) + 1).astype(int))
    heights = ranked[edges[:-1]]
    axes.stairs(heights, edges, baseline=bottom, fill=True, alpha=0.4)
    axes.stairs(heights, edges, baseline=None, color="tab:blue")
    axes.axhline(d.size_mean, color="0.4", ls="--", lw=1)
    axes.annotate(
        f"mean {d.size_mean:,.0f}", (1, d.size_mean), (0, 3), ha="right", color="0.4",
        xycoords=("axes fraction", "data"), textcoords="offset points",
    )  # fmt: skip
    axes.set(
        title=f"Sizes (Gini {d.size_gini:.2f})",
        xlabel="clients, largest first",
        ylabel="interactions",
        yscale="log" if skewed else "linear",
        ylim=(bottom, None),
        xlim=(0, d.clients),
    )
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_divergence(axes, d: Description) -> None:
    values = d.divergences[~np.isnan(d.divergences)]
    top = max(values.max(), d.divergence_by_chance, 1e-3)
    bins = np.linspace(0, min(top * 1.05, 1), int(np.clip(len(values) / 4, 10, 30)) + 1)
    counts, *_ = axes.hist(values, bins=bins, color="tab:orange", alpha=0.8)
    axes.set_ylim(0, 1.3 * counts.max())  # room for the legend
    for value, style, name in (
        (d.divergence_mean, "-", "mean"),
        (d.divergence_by_chance, ":", "by chance"),
    ):
        axes.axvline(value, color="0.2", ls=style, lw=1.5, label=f"{name} {value:.3f}")
    axes.legend(loc="upper right", framealpha=0.9, edgecolor="none")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set(
        title=f"Label divergence ({d.labels} labels)",
        xlabel="Jensen-Shannon divergence to all labels, bits",
        ylabel="clients",
    )


def _draw_tail(axes, d: Description) -> None:
    ranked = np.sort(d.item_counts[d.item_counts > 0])[::-1]
    rank = np.unique(np.geomspace(1, len(ranked), 800).astype(int))
    axes.loglog(rank, ranked[rank - 1], color="tab:green")
    lines = [f"top {p} % hold {share:.0%}" for p, share in d.top_share.items()]
    untouched = d.items - len(ranked)
    lines += [f"{untouched:,} of {d.items:,} items untouched"] if untouched else []
    axes.text(0.04, 0.05, "\n".join(lines), transform=axes.transAxes, va="bottom")
    axes.set(
        title="Popularity",
        xlabel="items, most popular first",
        ylabel="interactions",
    )
