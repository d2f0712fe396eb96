"""Drift: clients whose data change over time."""

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
from fedjax_rec.data.partition.labels import (
    check_labels,
    labels_of,
    labels_of_units,
)


@functools.partial(jax.jit, static_argnames=("num_labels", "num_clients"))
def assign_drift(
    key: Array,
    labels: Array,
    time: Array,
    alpha: float | Array,
    strength: float | Array,
    *,
    num_labels: int,
    num_clients: int,
) -> Array:
    """Clients' label mixtures go from `a_c` to `b_c` as time goes from 0 to 1.

    With `a_c, b_c ~ Dir(alpha p)` independent and `s = strength * time`, a unit of
    label `l` goes to client `c` with probability `(1 - s) a_c(l) + s b_c(l)`, where `a`
    and `b` are first normalised over clients, label by label.

    Args:
        key: typed key.
        labels: `[n]` int32 in `[0, num_labels)`.
        time: `[n]` in `[0, 1]`.
        alpha: concentration of the mixtures.
        strength: how far mixtures move: 0 not at all, 1 from `a_c` to `b_c`.
        num_labels: `L`.
        num_clients: `N`.

    Returns:
        `[n]` int32 clients. Sizes are equal in expectation, about; some may be empty.
    """
    n = labels.shape[0]
    mixture_key, when_key, client_key = jax.random.split(key, 3)
    shares = jnp.bincount(labels, length=num_labels) / n
    concentration = jnp.maximum(alpha * shares, 1e-6)
    # In logarithms: with a small alpha every client's share of a label may vanish.
    gammas = jax.random.loggamma(
        mixture_key, concentration, (2, num_clients, num_labels)
    )
    mixtures = jax.nn.log_softmax(gammas, axis=-1)
    below = jnp.cumsum(jax.nn.softmax(mixtures, axis=1), axis=1)
    late = jax.random.bernoulli(when_key, strength * time).astype(jnp.int32)
    total = below[late, -1, labels]
    target = jax.random.uniform(client_key, (n,)) * total
    target = jnp.minimum(target, jnp.nextafter(total, 0.0))

    def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) // 2
        right = below[late, middle, labels] <= target
        return jnp.where(right, middle + 1, low), jnp.where(right, high, middle)

    # Each unit has its own cumulative row; bisection gathers log2(N) entries of it.
    start = jnp.zeros(n, jnp.int32), jnp.full(n, num_clients - 1, jnp.int32)
    return jax.lax.fori_loop(0, max(num_clients - 1, 1).bit_length(), halve, start)[0]


def drift(
    key: Array,
    train: Interactions,
    num_clients: int,
    *,
    labels: np.ndarray | None = None,
    alpha: float = 0.5,
    strength: float = 1.0,
    unit: Unit = "interaction",
) -> Partition:
    """Incremental drift: every client moves from one label mixture to another.

    Time is the share of units that came before, so drift is as fast in busy months as
    in quiet ones.

    Args:
        key: typed key.
        train: the training interactions.
        num_clients: `N`.
        labels: `[n]` integers; `labels_of(train)` by default.
        alpha: concentration of the mixtures, as in `dirichlet`.
        strength: 0 for no drift, 1 for mixtures unrelated to the first at the end.
        unit: `interaction`, the default here since a person who stays on one client
            cannot be made to drift; `user` lets each client recruit, at their first
            interaction, users of one label early and of another late.

    Returns:
        The partition; clients may be empty.

    Raises:
        ValueError: `alpha`, `strength` or labels out of range, or more clients than
            units.

    References:
        Gama et al. 2014, A survey on concept drift adaptation, ACM Computing Surveys
        46(4) (incremental drift); Jothimurugesan et al. 2023, Federated learning under
        distributed concept drift, arXiv:2206.00799.
    """
    if not 0 < alpha < np.inf:
        raise ValueError(f"alpha={alpha}, expected a number above 0")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength}, expected 0 (no drift) to 1")
    labels = check_labels(labels_of(train) if labels is None else labels, train)
    units = units_of(train, unit, num_clients)
    first = np.full(units.count, np.iinfo(np.int64).max)
    np.minimum.at(first, units.index, train.timestamp)
    rank = np.empty(units.count, np.float32)
    rank[np.argsort(first, kind="stable")] = np.linspace(0, 1, units.count)
    client = assign_drift(
        key,
        jnp.asarray(labels_of_units(labels, units)),
        jnp.asarray(rank),
        float(alpha),
        float(strength),
        num_labels=int(labels.max()) + 1,
        num_clients=num_clients,
    )
    name = f"drift({num_clients}, alpha={alpha}, strength={strength}, unit={unit})"
    return from_units(units, client, num_clients, name)
