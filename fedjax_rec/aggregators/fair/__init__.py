"""Means whose weights follow from how clients fare, what they hold, when they come.

| rule | weighs a client by | state |
|---|---|---|
| `q_fedavg`, `tilted` | its loss | none |
| `agnostic` | the loss of its group, over all rounds | a weight a group |
| `by_size`, `by_effective_number` | its number of examples | none |
| `by_magnitude` | how far it moved | none |
| `by_participation` | how rarely it comes | three numbers a client |
| `by_trend` | how little its loss has fallen | a loss a client |
"""

from fedjax_rec.aggregators.fair.agnostic import agnostic
from fedjax_rec.aggregators.fair.magnitude import by_magnitude
from fedjax_rec.aggregators.fair.participation import by_participation
from fedjax_rec.aggregators.fair.q_fedavg import q_fedavg
from fedjax_rec.aggregators.fair.tilted import tilted
from fedjax_rec.aggregators.fair.trend import by_trend
from fedjax_rec.aggregators.fair.underrepresented import (
    by_effective_number,
    by_size,
)

__all__ = [
    "agnostic",
    "by_effective_number",
    "by_magnitude",
    "by_participation",
    "by_size",
    "by_trend",
    "q_fedavg",
    "tilted",
]
