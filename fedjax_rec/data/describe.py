"""Description of a partition: sizes, label divergence, popularity."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition, labels_of
from fedjax_rec.data.synthetic import LIMITS

_QUANTILES = {
    "smallest": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "99 %": 0.99,
    "largest": 1.0,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Description:
    """Statistics of a partitioned training set.

    Attributes:
        data: Name of the data set.
        partition: Name of the partition.
        users: Number of users of the data set.
        items: Number of items of the data set.
        interactions: Number of training interactions, `n`.
        density: `n / (users * items)`.
        clients: Population `N`.
        empty_clients: Number of clients without interactions.
        users_per_client: Mean over clients that have interactions.
        clients_per_user: Mean over users that have interactions; 1 if all interactions
            of a user are on one client.
        size_quantiles: Quantiles of the interactions per client, by name.
        size_mean: Mean number of interactions per client.
        size_gini: Gini coefficient of the sizes: 0 if all are equal, near 1 if one
            client has everything.
        labels: Number of labels.
        divergence_mean: Mean Jensen-Shannon divergence in bits, over clients with data,
            from the client's labels to all labels: 0 alike, 1 disjoint.
        divergence_by_chance: The same after shuffling labels among interactions, which
            small clients show without any skew.
        top_share: Share of the interactions with the top 1, 10 and 20 % of items.
        notes: Number of rows that reading merged or dropped, by reason.
        limits: Properties that the data lack, if synthetic.
        sizes: `[N]` interactions per client.
        divergences: `[N]` divergences, NaN for empty clients.
        item_counts: `[I]` interactions per item.
    """

    data: str
    partition: str
    users: int
    items: int
    interactions: int
    density: float
    clients: int
    empty_clients: int
    users_per_client: float
    clients_per_user: float
    size_quantiles: Mapping[str, float]
    size_mean: float
    size_gini: float
    labels: int
    divergence_mean: float
    divergence_by_chance: float
    top_share: Mapping[int, float]
    notes: Mapping[str, int]
    limits: tuple[str, ...]
    sizes: np.ndarray
    divergences: np.ndarray
    item_counts: np.ndarray


def describe(
    train: Interactions, partition: Partition, labels: np.ndarray | None = None
) -> Description:
    """Measures a partition.

    Args:
        train: The training interactions.
        partition: Partition of these interactions.
        labels: `[n]` integers for the divergence; by default `labels_of(train)`.

    Returns:
        The statistics.

    Raises:
        ValueError: There are no interactions, or the partition is of other data.
    """
    n = len(train)
    if not n or len(partition.client) != n:
        raise ValueError(
            f"train has {n} interactions and the partition {partition.name!r} "
            f"{len(partition.client)}; expected the same number, above 0. Partition "
            "the train part of the split."
        )
    labels = labels_of(train) if labels is None else labels
    client, num_clients = partition.client, partition.num_clients
    sizes = np.bincount(client, minlength=num_clients)
    divergences = label_divergences(client, labels, num_clients)
    # A fixed seed: the same data have the same description.
    shuffled = np.random.default_rng(0).permutation(labels)
    by_chance = label_divergences(client, shuffled, num_clients)
    pairs = len(np.unique(client.astype(np.int64) * train.num_users + train.user))
    item_counts = np.bincount(train.item, minlength=train.num_items)
    ranked = np.sort(item_counts)[::-1]
    return Description(
        data=train.name,
        partition=partition.name,
        users=train.num_users,
        items=train.num_items,
        interactions=n,
        density=n / (train.num_users * train.num_items),
        clients=num_clients,
        empty_clients=int((sizes == 0).sum()),
        users_per_client=pairs / int((sizes > 0).sum()),
        clients_per_user=pairs / len(np.unique(train.user)),
        size_quantiles={
            name: float(np.quantile(sizes, q)) for name, q in _QUANTILES.items()
        },
        size_mean=n / num_clients,
        size_gini=gini(sizes),
        labels=len(np.unique(labels)),
        divergence_mean=float(np.nanmean(divergences)),
        divergence_by_chance=float(np.nanmean(by_chance)),
        top_share={
            percent: float(ranked[: -(-len(ranked) * percent // 100)].sum() / n)
            for percent in (1, 10, 20)
        },
        notes=train.notes,
        limits=LIMITS if train.name == "synthetic" else (),
        sizes=sizes,
        divergences=divergences,
        item_counts=item_counts,
    )


def gini(sizes: np.ndarray) -> float:
    """Returns the Gini coefficient of sizes `[N]`, not all 0.

    >>> gini(np.array([1, 1, 1])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    ascending = np.sort(sizes).astype(np.float64)
    n = len(ascending)
    ranks = 2 * np.arange(1, n + 1) - n - 1
    return float((ranks * ascending).sum() / (n * ascending.sum()))


def label_divergences(
    client: np.ndarray, labels: np.ndarray, num_clients: int
) -> np.ndarray:
    """Returns each client's Jensen-Shannon divergence to all labels, in bits.

    Args:
        client: `[n]` client of each interaction.
        labels: `[n]` integers from 0.
        num_clients: `N`.

    Returns:
        `[N]` in `[0, 1]`; NaN for clients without interactions.

    References:
        Lin 1991, Divergence measures based on the Shannon entropy, IEEE Transactions on
        Information Theory 37(1).
    """
    num_labels = int(labels.max()) + 1
    pair, count = np.unique(
        client.astype(np.int64) * num_labels + labels, return_counts=True
    )
    holder, label = np.divmod(pair, num_labels)
    sizes = np.bincount(client, minlength=num_clients)
    p = count / sizes[holder]
    q = (np.bincount(labels, minlength=num_labels) / len(labels))[label]
    middle = (p + q) / 2
    terms = (p * np.log2(p / middle) + q * np.log2(q / middle)) / 2
    # A label the client lacks adds q log2(q / (q / 2)) / 2 = q / 2: no dense table.
    lacking = 1 - np.bincount(holder, q, num_clients)
    divergence = np.bincount(holder, terms, num_clients) + lacking / 2
    return np.where(sizes > 0, np.clip(divergence, 0, 1), np.nan)


def to_text(description: Description) -> str:
    """Returns a table to print."""
    d = description
    rows = [
        ("data", d.data),
        ("partition", d.partition),
        ("users", f"{d.users:,}"),
        ("items", f"{d.items:,}"),
        ("interactions", f"{d.interactions:,}"),
        ("density", f"{d.density:.4%}"),
        ("clients", f"{d.clients:,}"),
        ("  empty", f"{d.empty_clients:,}"),
        ("  users a client", f"{d.users_per_client:,.2f}"),
        ("  clients a user", f"{d.clients_per_user:,.2f}"),
        ("interactions a client", f"{d.size_mean:,.1f} on average"),
        *((f"  {name}", f"{value:,.0f}") for name, value in d.size_quantiles.items()),
        ("  Gini", f"{d.size_gini:.3f}"),
        ("label divergence", f"{d.divergence_mean:.3f} bits over {d.labels} labels"),
        ("  by chance", f"{d.divergence_by_chance:.3f} bits"),
        ("popularity", "share of interactions"),
        *((f"  top {p} % items", f"{share:.1%}") for p, share in d.top_share.items()),
        *((f"note: {reason}", f"{count:,}") for reason, count in d.notes.items()),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    if d.limits:
        lines += ["", "Synthetic. Real data have properties that these lack:"]
        lines += [f"  - {limit}" for limit in d.limits]
    return "\n".join(lines)
