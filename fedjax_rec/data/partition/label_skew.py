"""Label skew: clients that differ in what they like."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition.assignment import (
    Partition,
    Unit,
    from_units,
    units_of,
)
from fedjax_rec.data.partition.labels import check_labels, labels_of_units


@functools.partial(jax.jit, static_argnames=("num_labels", "num_clients"))
def assign_dirichlet(
    key: Array,
    labels: Array,
    alpha: float | Array,
    *,
    num_labels: int,
    num_clients: int,
) -> Array:
    """Clients draw label mixtures `q ~ Dir(alpha p)`, then take units by them in turn.

    `p` are the labels' shares. A label that has run out drops out of the mixtures; a
    client none of whose labels are left takes from what remains. Hsu et al. fill client
    after client; taking turns spares the last clients being filled with the leftovers.

    The turns are a `scan` of one step a unit: about a microsecond each on CPU.

    Args:
        key: typed key.
        labels: `[n]` int32 in `[0, num_labels)`.
        alpha: concentration: 0 towards one label a client, infinity towards `p`.
        num_labels: `L`.
        num_clients: `N`.

    Returns:
        `[n]` int32 clients; their sizes differ by at most one.
    """
    n = labels.shape[0]
    mixture_key, turn_key, order_key = jax.random.split(key, 3)
    counts = jnp.bincount(labels, length=num_labels)
    # Labels that do not occur need some concentration, and are never left to take.
    concentration = jnp.maximum(alpha * counts / n, 1e-6)
    mixtures = jax.random.dirichlet(mixture_key, concentration, (num_clients,))
    turns = jnp.arange(n, dtype=jnp.int32) % num_clients

    def take(left: Array, turn: tuple[Array, Array]) -> tuple[Array, Array]:
        client, uniform = turn
        weight = jnp.where(left > 0, mixtures[client], 0)
        weight = jnp.where(weight.sum() > 0, weight, left)
        below = jnp.cumsum(weight)
        # Rounding must not push the target past the last label that has weight.
        target = jnp.minimum(uniform * below[-1], jnp.nextafter(below[-1], 0.0))
        label = jnp.argmax(below > target)
        return left.at[label].add(-1), label

    uniforms = jax.random.uniform(turn_key, (n,))
    _, taken = jax.lax.scan(take, counts, (turns, uniforms))
    # The k-th unit of a label, in random order, goes to the k-th turn that took it.
    shuffled = jax.random.permutation(order_key, n)
    units = shuffled[jnp.argsort(labels[shuffled], stable=True)]
    takers = turns[jnp.argsort(taken, stable=True)]
    return jnp.zeros(n, jnp.int32).at[units].set(takers)


def dirichlet(
    key: Array,
    train: Interactions,
    labels: np.ndarray,
    num_clients: int,
    alpha: float,
    *,
    unit: Unit = "user",
) -> Partition:
    """Clients with Dirichlet label mixtures and equal numbers of units.

    Args:
        key: typed key.
        train: the training interactions.
        labels: `[n]` integers, see `labels_of`.
        num_clients: `N`.
        alpha: concentration; .1 is strongly skewed, 100 hardly.
        unit: `user` moves people by their most frequent label; `interaction` moves
            interactions by their own, which reaches stronger skew.

    Returns:
        The partition; no client is empty.

    Raises:
        ValueError: `alpha` not above 0, more clients than units, or misfit labels.

    References:
        Hsu, Qi, Brown 2019, Measuring the effects of non-identical data distribution
        for federated visual classification, arXiv:1909.06335.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha={alpha}, expected a number above 0 (iid is the limit)")
    labels = check_labels(labels, train)
    units = units_of(train, unit, num_clients)
    client = assign_dirichlet(
        key,
        jnp.asarray(labels_of_units(labels, units)),
        float(alpha),
        num_labels=int(labels.max()) + 1,
        num_clients=num_clients,
    )
    name = f"dirichlet({num_clients}, alpha={alpha}, unit={unit})"
    return from_units(units, client, num_clients, name)


@functools.partial(jax.jit, static_argnames=("num_clients", "shards_per_client"))
def assign_shards(
    key: Array, labels: Array, *, num_clients: int, shards_per_client: int
) -> Array:
    """Sorts by label, cuts into equal shards, and deals every client `S` of them.

    Args:
        key: typed key; shuffles within labels and deals the shards.
        labels: `[n]` int32.
        num_clients: `N`.
        shards_per_client: `S`; `N S` is at most `n`.

    Returns:
        `[n]` int32 clients; the sizes of shards differ by at most one.
    """
    n, num_shards = labels.shape[0], num_clients * shards_per_client
    order_key, deal_key = jax.random.split(key)
    shuffled = jax.random.permutation(order_key, n)
    units = shuffled[jnp.argsort(labels[shuffled], stable=True)]
    # The first `longer` shards hold one more; `i * num_shards // n` would overflow.
    size, longer = divmod(n, num_shards)
    place = jnp.arange(n, dtype=jnp.int32)
    head = longer * (size + 1)
    shard = jnp.where(
        place < head, place // (size + 1), longer + (place - head) // max(size, 1)
    )
    owner = jax.random.permutation(deal_key, num_shards).astype(jnp.int32) % num_clients
    return jnp.zeros(n, jnp.int32).at[units].set(owner[shard])


def shards(
    key: Array,
    train: Interactions,
    labels: np.ndarray,
    num_clients: int,
    shards_per_client: int = 2,
    *,
    unit: Unit = "user",
) -> Partition:
    """Every client gets a few shards of the data sorted by label.

    Args:
        key: typed key.
        train: the training interactions.
        labels: `[n]` integers, see `labels_of`.
        num_clients: `N`.
        shards_per_client: `S`; a client sees about so many labels.
        unit: `user` sorts people by their most frequent label; `interaction` sorts
            interactions by their own, the pathological setting of the paper.

    Returns:
        The partition; no client is empty.

    Raises:
        ValueError: more shards than units, or misfit labels.

    References:
        McMahan et al. 2017, Communication-efficient learning of deep networks from
        decentralized data, arXiv:1602.05629.
    """
    labels = check_labels(labels, train)
    units = units_of(train, unit, num_clients)
    if not 1 <= shards_per_client <= units.count // num_clients:
        raise ValueError(
            f"shards_per_client={shards_per_client}, expected 1 to "
            f"{units.count // num_clients}: {num_clients} clients share {units.count} "
            f"units ({unit}). Lower it, or num_clients."
        )
    client = assign_shards(
        key,
        jnp.asarray(labels_of_units(labels, units)),
        num_clients=num_clients,
        shards_per_client=shards_per_client,
    )
    name = f"shards({num_clients}, per_client={shards_per_client}, unit={unit})"
    return from_units(units, client, num_clients, name)
