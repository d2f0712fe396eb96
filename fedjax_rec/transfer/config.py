"""Settings of a transfer, which load nothing heavy, and what cannot transfer."""

import dataclasses
import math
from typing import Any

from fedjax_rec.data.settings import FileData
from fedjax_rec.experiment.settings import Experiment

TUNABLE = ("common", "history")
"""The groups of lifted parameters without the items' vectors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The data set that is transferred to.

    Attributes:
        data: source of the interactions.
        template: template of an item's text; empty for that of the data set.
        notes: table of free texts for the template's `{note}`.
        users: number of evaluated users, drawn from those with a history; 0 is all.
        seed: seed of that draw.
        shuffle_seed: seed of the control that gives every item another one's text.
    """

    data: Any = dataclasses.field(default_factory=lambda: FileData(source="amazon"))
    template: str = ""
    notes: str | None = None
    users: int = 5000
    seed: int = 0
    shuffle_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users", "seed", "shuffle_seed"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"target.{name}={getattr(self, name)}: expected at least 0"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Local steps of every target user's client, on its own history alone.

    Attributes:
        steps: numbers of steps to evaluate; each step is plain SGD on all pairs of
            the history, with negatives drawn anew.
        lr: learning rate. Of several the source's validation users choose, never the
            target's: the rate with the best mean over `steps`.
        tune: groups that become the client's own: `common`, `history`. The items'
            vectors stay, so that the catalog is encoded once for all.
        window: number of latest interactions that a client trains on.
    """

    steps: tuple[int, ...] = (1, 3, 5)
    lr: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    tune: tuple[str, ...] = TUNABLE
    window: int = 20

    def __post_init__(self) -> None:
        steps, rates = self.steps, self.lr
        if any(n < 1 for n in steps) or list(steps) != sorted(set(steps)):
            raise ValueError(
                f"few_shot.steps={steps}: expected numbers of at least 1 in increasing "
                "order, such as (1, 3, 5); zero steps are the zero-shot row"
            )
        if not rates or any(not (math.isfinite(rate) and rate > 0) for rate in rates):
            raise ValueError(
                f"few_shot.lr={rates}: expected at least one positive rate"
            )
        if not self.tune or set(self.tune) - set(TUNABLE):
            raise ValueError(
                f"few_shot.tune={self.tune}: expected some of {', '.join(TUNABLE)}; "
                "with an adapter or a head of its own each client would have to encode "
                "the whole catalog"
            )
        if self.window < 1:
            raise ValueError(f"few_shot.window={self.window}: expected at least 1")


def check(experiment: Experiment, target: Target) -> None:
    """Raises a ValueError if the experiment cannot transfer; loads no data."""
    obstacle = getattr(experiment.algorithm, "transfer_obstacle", None)
    if obstacle is None:
        raise ValueError(
            f"{type(experiment.algorithm).__name__} trains a table of the source's "
            "items, and the target has other items: expected a system that reads "
            "texts, such as FedFM with users=History()"
        )
    if obstacle:
        raise ValueError(obstacle)
    if experiment.protocol.metric is not None:
        raise ValueError(
            "protocol.metric is not computed in a transfer, which ranks another "
            "catalog than the one it is built for: leave it none"
        )
    if target.data == experiment.data:
        raise ValueError(
            "the target is the source's own data, part of which was trained on. Choose "
            "another --target, or run `fedjax-rec train`"
        )
