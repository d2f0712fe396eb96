"""Aggregators: folds over the clients' deltas."""

from collections.abc import Callable

from fedjax_rec.aggregators.attention import attentive
from fedjax_rec.aggregators.fair import (
    by_effective_number,
    by_magnitude,
    by_size,
    q_fedavg,
    tilted,
)
from fedjax_rec.aggregators.means import per_row_mean, total, weighted_mean
from fedjax_rec.aggregators.robust.bulyan import bulyan
from fedjax_rec.aggregators.robust.clipping import centered_clipping
from fedjax_rec.aggregators.robust.coordinates import (
    coordinate_median,
    trimmed_mean,
)
from fedjax_rec.aggregators.robust.geometric import geometric_median
from fedjax_rec.aggregators.robust.krum import krum, multi_krum
from fedjax_rec.aggregators.robust.majority import majority_vote
from fedjax_rec.aggregators.robust.mixing import mixed
from fedjax_rec.aggregators.robust.norm_bound import norm_bound
from fedjax_rec.core.contracts import Aggregator

AGGREGATORS: dict[str, Callable[[], Aggregator]] = {
    "examples": weighted_mean,
    "uniform": lambda: weighted_mean(uniform=True),
    "per_row": per_row_mean,
    "per_row_uniform": lambda: per_row_mean(uniform=True),
    "sum": total,
    "q_fedavg": q_fedavg,
    "tilted": tilted,
    "by_size": by_size,
    "by_effective_number": by_effective_number,
    "by_magnitude": by_magnitude,
    "attentive": attentive,
    "median": coordinate_median,
    "trimmed_mean": trimmed_mean,
    "geometric_median": geometric_median,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "centered_clipping": centered_clipping,
    "norm_bound": norm_bound,
    "majority_vote": majority_vote,
    "mixed_trimmed_mean": lambda: mixed(trimmed_mean()),
    "mixed_median": lambda: mixed(coordinate_median()),
    "median_of_voters": lambda: coordinate_median(voting="voters"),
    "trimmed_mean_of_voters": lambda: trimmed_mean(voting="voters"),
    "geometric_median_of_voters": lambda: geometric_median(voting="voters"),
    "median_diluted": lambda: coordinate_median(voting="diluted"),
    "trimmed_mean_diluted": lambda: trimmed_mean(voting="diluted"),
    "geometric_median_diluted": lambda: geometric_median(voting="diluted"),
}
