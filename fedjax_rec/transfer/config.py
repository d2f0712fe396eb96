"""What is transferred to, and how: frozen dataclasses, and what cannot transfer."""

import dataclasses

import numpy as np

from fedjax_rec.algorithms.fedfm import FedFM
from fedjax_rec.experiment.build import Experiment
from fedjax_rec.experiment.data import CsvData, FileData, SyntheticData

TUNABLE = ("common", "history")
"""The groups of lifted parameters without the items' vectors."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """The data that is transferred to.

    Attributes:
        data: where its interactions come from.
        template: an item's text; by default the data set's own.
        notes: table of free texts for the template's `{note}`.
        users: how many are evaluated, drawn from those with a history; 0 is all.
        seed: of that draw.
        shuffle_seed: of the control that gives every item another one's text.
    """

    data: SyntheticData | FileData | CsvData = dataclasses.field(
        default_factory=lambda: FileData(source="amazon")
    )
    template: str = ""
    notes: str | None = None
    users: int = 5000
    seed: int = 0
    shuffle_seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Local steps of every target user's client, on its own history alone.

    Attributes:
        steps: how many, each a curve's point; each step is plain SGD on all pairs of
            the history, with negatives drawn anew.
        lr: of the steps. Of several the source's validation users choose, never the
            target's: the rate with the best mean over `steps`.
        tune: the groups that become the client's own: `common`, `history`. The items'
            vectors stay as they are, so that the catalog is encoded once for all.
        window: a client trains on its latest interactions, so many.
    """

    steps: tuple[int, ...] = (1, 3, 5)
    lr: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    tune: tuple[str, ...] = TUNABLE
    window: int = 20


def check(experiment: Experiment, target: Target, few_shot: FewShot) -> None:
    """Raises a ValueError for what cannot transfer, before anything is loaded."""
    algorithm = experiment.algorithm
    if not isinstance(algorithm, FedFM):
        raise ValueError(
            f"{type(algorithm).__name__} has a table of the source's items, which are "
            "not the target's: only what reads texts transfers. Use FedFM with "
            "users='history'"
        )
    if algorithm.users != "history":
        raise ValueError(
            f"algorithm.users={algorithm.users!r}: a user's own vector does not "
            "transfer, and target users have none. Use users='history', the tower that "
            "makes a user of what it did last"
        )
    if algorithm.id_residual:
        raise ValueError(
            "algorithm.id_residual=True: the rows of the source's items do not "
            "transfer, since the target has other items. Turn it off"
        )
    if algorithm.personal:
        raise ValueError(
            f"algorithm.personal={algorithm.personal}: groups that stay on the "
            "source's clients do not transfer, as no target user has them. Share all "
            "of them: personal=()"
        )
    if target.data == experiment.data:
        raise ValueError(
            "the target is the source's own data, part of which was trained on. Choose "
            "another --target, or run `fedjax-rec train`"
        )
    if target.users < 0:
        raise ValueError(
            f"target.users={target.users}: expected a number, or 0 for all"
        )
    for name in ("seed", "shuffle_seed"):
        if getattr(target, name) < 0:
            raise ValueError(f"target.{name} must not be negative")
    steps, rates = few_shot.steps, few_shot.lr
    if any(n < 1 for n in steps) or list(steps) != sorted(set(steps)):
        raise ValueError(
            f"few_shot.steps={steps}: expected numbers of at least 1 in increasing "
            "order, such as (1, 3, 5); zero steps are the zero-shot row"
        )
    if not rates or any(not (np.isfinite(rate) and rate > 0) for rate in rates):
        raise ValueError(f"few_shot.lr={rates}: expected at least one positive rate")
    if not few_shot.tune or set(few_shot.tune) - set(TUNABLE):
        raise ValueError(
            f"few_shot.tune={few_shot.tune}: expected some of {', '.join(TUNABLE)}; "
            "with an adapter or a head of its own each client would have to encode "
            "the whole catalog"
        )
    if few_shot.window < 1:
        raise ValueError(f"few_shot.window={few_shot.window}: expected at least 1")
