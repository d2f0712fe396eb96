"""Settings of all aggregation rules at their defaults, by name."""

from typing import Any

from fedjax_rec.aggregators.losses import Agnostic, QFedAvg, Tilted
from fedjax_rec.aggregators.means import Mean, Sum
from fedjax_rec.aggregators.robust.bulyan import Bulyan
from fedjax_rec.aggregators.robust.clipping import CenteredClipping, NormBound
from fedjax_rec.aggregators.robust.krum import Krum, MultiKrum
from fedjax_rec.aggregators.robust.majority import MajorityVote
from fedjax_rec.aggregators.robust.medians import (
    GeometricMedian,
    Median,
    TrimmedMean,
)
from fedjax_rec.aggregators.robust.mixing import NNM
from fedjax_rec.aggregators.weights import (
    Attentive,
    ByEffectiveNumber,
    ByMagnitude,
    BySize,
    FedNova,
)
from fedjax_rec.contrib.by_participation import ByParticipation
from fedjax_rec.contrib.by_trend import ByTrend

RULES: dict[str, Any] = {
    "mean": Mean(),
    "mean uniform": Mean(weights="uniform"),
    "mean per row": Mean(per_row=True),
    "mean per row uniform": Mean(weights="uniform", per_row=True),
    "sum": Sum(),
    "q-fedavg": QFedAvg(),
    "tilted": Tilted(),
    "agnostic": Agnostic(),
    "by size": BySize(),
    "by effective number": ByEffectiveNumber(),
    "by magnitude": ByMagnitude(),
    "fednova": FedNova(),
    "attentive": Attentive(),
    "by participation": ByParticipation(),
    "by trend": ByTrend(),
    "median": Median(),
    "trimmed mean": TrimmedMean(),
    "geometric median": GeometricMedian(),
    "krum": Krum(),
    "multi-krum": MultiKrum(),
    "bulyan": Bulyan(),
    "centered clipping": CenteredClipping(),
    "norm bound": NormBound(),
    "majority vote": MajorityVote(),
    "nnm median": NNM(),
    "nnm trimmed mean": NNM(then=TrimmedMean()),
    "median of voters": Median(voting="voters"),
    "trimmed mean of voters": TrimmedMean(voting="voters"),
    "geometric median of voters": GeometricMedian(voting="voters"),
    "median diluted": Median(voting="diluted"),
    "trimmed mean diluted": TrimmedMean(voting="diluted"),
    "geometric median diluted": GeometricMedian(voting="diluted"),
}
