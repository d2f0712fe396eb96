"""Partitions by labels: clients that differ in their tastes, or drift."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.checks import check_ranges
from fedjax_rec.data.partition.units import Partition, RandomPartition, Unit, Units

if TYPE_CHECKING:
    from fedjax_rec.data.interactions import Interactions

with epy.lazy_imports():
    import numpy as np

    from fedjax_rec.data.partition import assign

# Columns that `labels_of` tries, in this order, if none is named.
_COLUMNS = ("genres", "genre", "category", "categories", "rating")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelPartition(RandomPartition):
    """Base of the partitions by labels.

    Attributes:
        label: Column of the labels, see `labels_of`; empty for the genre.
    """

    label: str = ""

    def partition(
        self, train: Interactions, labels: np.ndarray | None = None
    ) -> Partition:
        """Partitions the training interactions.

        Args:
            train: The training interactions.
            labels: `[n]` integers from 0, used in place of the column `label`.

        Raises:
            ValueError: There are too few units for the clients, or labels do not fit,
                or all units have the same label.
        """
        units = self.units(train)
        labels = labels_of(train, self.label or None) if labels is None else labels
        labels = check_labels(labels, train)
        num_labels = int(labels.max()) + 1
        of_units = labels_of_units(labels, units)
        if len(of_units) and (of_units == of_units[0]).all():
            raise ValueError(
                f"all {units.count} units ({self.unit}) of {train.name!r} have one "
                f"label, so that {type(self).__name__} would be a partition at random: "
                "set label to a column with several values, or use IID"
            )
        return self._assign(train, units, of_units, num_labels)

    def _assign(
        self, train: Interactions, units: Units, labels: np.ndarray, num_labels: int
    ) -> Partition:
        """Assigns the units, given the label `[count]` of each."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dirichlet(LabelPartition):
    """Clients have Dirichlet label mixtures and equal numbers of units.

    Attributes:
        num_clients: Number of clients.
        alpha: Concentration; 0.1 is strongly skewed, 100 hardly.
        label: Column of the labels, see `labels_of`; empty for the genre.
        unit: `user` assigns users by their most frequent label; `interaction` assigns
            interactions by their own, which allows stronger skew.
        seed: Seed of the assignment.

    References:
        Hsu, Qi, Brown 2019, Measuring the effects of non-identical data distribution
        for federated visual classification, arXiv:1909.06335.
    """

    alpha: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, alpha="(0, inf)")

    def _assign(self, train, units, labels, num_labels) -> Partition:
        client = assign.assign_dirichlet(
            units.key,
            labels,
            float(self.alpha),
            num_labels=num_labels,
            num_clients=self.num_clients,
        )
        return self.assigned(units, client, "dirichlet", alpha=self.alpha)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shards(LabelPartition):
    """Every client gets a few shards of the data sorted by label.

    Attributes:
        num_clients: Number of clients.
        shards_per_client: Shards per client, about as many as labels per client.
        label: Column of the labels, see `labels_of`; empty for the genre.
        unit: `user` sorts users by their most frequent label; `interaction` sorts
            interactions by their own, the pathological setting of the paper.
        seed: Seed of the assignment.

    References:
        McMahan et al. 2017, Communication-efficient learning of deep networks from
        decentralized data, arXiv:1602.05629.
    """

    shards_per_client: int = 2

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, shards_per_client="[1, inf)")

    def _assign(self, train, units, labels, num_labels) -> Partition:
        most = units.count // self.num_clients
        if self.shards_per_client > most:
            raise ValueError(
                f"shards_per_client={self.shards_per_client}, expected 1 to {most}: "
                f"{self.num_clients} clients share {units.count} units ({self.unit}). "
                "Lower it, or num_clients."
            )
        client = assign.assign_shards(
            units.key,
            labels,
            num_clients=self.num_clients,
            shards_per_client=self.shards_per_client,
        )
        return self.assigned(units, client, "shards", per_client=self.shards_per_client)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drift(LabelPartition):
    """Incremental drift: every client moves from one label mixture to another.

    Time is the share of units that came before, so drift is as fast in busy months as
    in quiet ones.

    Attributes:
        num_clients: Number of clients.
        alpha: Concentration of the mixtures, as in `Dirichlet`.
        strength: 0 for no drift, 1 for final mixtures independent of the first.
        label: Column of the labels, see `labels_of`; empty for the genre.
        unit: `interaction`, the default because a user on a single client cannot
            drift; with `user`, each client recruits users of one label early and of
            another late, at their first interaction.
        seed: Seed of the assignment.

    References:
        Gama et al. 2014, A survey on concept drift adaptation, ACM Computing Surveys
        46(4) (incremental drift); Jothimurugesan et al. 2023, Federated learning under
        distributed concept drift, arXiv:2206.00799.
    """

    alpha: float = 0.5
    strength: float = 1.0
    unit: Unit = "interaction"

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, alpha="(0, inf)", strength="[0, 1]")

    def _assign(self, train, units, labels, num_labels) -> Partition:
        first = np.full(units.count, np.iinfo(np.int64).max)
        np.minimum.at(first, units.index, train.timestamp)
        rank = np.empty(units.count, np.float32)
        rank[np.argsort(first, kind="stable")] = np.linspace(0, 1, units.count)
        client = assign.assign_drift(
            units.key,
            labels,
            rank,
            float(self.alpha),
            float(self.strength),
            num_labels=num_labels,
            num_clients=self.num_clients,
        )
        return self.assigned(
            units, client, "drift", alpha=self.alpha, strength=self.strength
        )


def labels_of(train: Interactions, column: str | None = None) -> np.ndarray:
    """Returns labels of the interactions, numbered by the sorted values.

    Args:
        train: The training interactions.
        column: An item attribute (the first of several values joined by `|`), a user
            attribute, or `rating`; by default the first that exists of
            `genres`, `genre`, `category`, `categories`, `rating`.

    Returns:
        `[n]` int32 in `[0, L)`. Labels of items without interactions count towards `L`.

    Raises:
        ValueError: There is no such column; the message lists the columns.

    >>> from fedjax_rec.data.interactions import Entities, make_interactions
    >>> items = Entities(ids=["a", "b"], attributes={"genres": ["War|Drama", "Drama"]})
    >>> users, u, i = Entities(ids=["u"]), np.array([0, 0]), np.array([1, 0])
    >>> data = make_interactions(user=u, item=i, users=users, items=items)
    >>> labels_of(data, "genres").tolist()
    [0, 1]
    """
    items, users = train.items.attributes, train.users.attributes
    if column is None:
        column = next(name for name in _COLUMNS if name in (*items, "rating"))
    if column in items:
        return _encode([value.split("|")[0] for value in items[column]])[train.item]
    if column in users:
        return _encode(users[column])[train.user]
    if column == "rating":
        return np.unique(train.rating, return_inverse=True)[1].astype(np.int32)
    available = ", ".join(sorted({*items, *users, "rating"}))
    raise ValueError(
        f"{train.name!r} has no column {column!r} to take labels from; available: "
        f"{available}"
    )


def check_labels(labels: np.ndarray, train: Interactions) -> np.ndarray:
    """Returns `labels` as int32.

    Raises:
        ValueError: They are not one integer from 0 for every interaction.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(train),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}, expected one integer "
            f"for each of the {len(train)} interactions; see labels_of"
        )
    if len(labels) and labels.min() < 0:
        raise ValueError(f"labels start at {labels.min()}, expected 0; see labels_of")
    return labels.astype(np.int32)


def labels_of_units(labels: np.ndarray, units: Units) -> np.ndarray:
    """Returns the most frequent label of each unit (the smallest one if tied)."""
    if units.users is None:
        return labels
    num_labels = int(labels.max(initial=0)) + 1
    pair, count = np.unique(
        units.index.astype(np.int64) * num_labels + labels, return_counts=True
    )
    unit, label = np.divmod(pair, num_labels)
    order = np.lexsort((-label, count, unit))
    last = np.flatnonzero(np.diff(unit[order], append=-1))
    return label[order][last].astype(np.int32)


def _encode(values: Sequence[str]) -> np.ndarray:
    return np.unique(np.asarray(values, str), return_inverse=True)[1].astype(np.int32)
