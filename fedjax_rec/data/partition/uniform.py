"""IID: clients that differ by chance only."""

import functools

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition.assignment import (
    Partition,
    Unit,
    from_units,
    units_of,
)


@functools.partial(jax.jit, static_argnames=("num_units", "num_clients"))
def assign_uniform(key: Array, *, num_units: int, num_clients: int) -> Array:
    """`[num_units]` int32 clients: shuffled, then dealt in turn.

    >>> clients = assign_uniform(jax.random.key(0), num_units=5, num_clients=2)
    >>> jnp.bincount(clients).tolist()
    [3, 2]
    """
    return jax.random.permutation(key, num_units).astype(jnp.int32) % num_clients


def iid(
    key: Array, train: Interactions, num_clients: int, *, unit: Unit = "user"
) -> Partition:
    """Units dealt at random; clients' numbers of units differ by at most one.

    Args:
        key: typed key.
        train: the training interactions.
        num_clients: `N`.
        unit: `user` deals whole people, so that the clients' numbers of interactions
            still differ; `interaction` makes clients alike in everything.

    Returns:
        The partition; no client is empty.

    Raises:
        ValueError: more clients than units.

    References:
        McMahan et al. 2017, Communication-efficient learning of deep networks from
        decentralized data, arXiv:1602.05629 (the IID setting).
    """
    units = units_of(train, unit, num_clients)
    client = assign_uniform(key, num_units=units.count, num_clients=num_clients)
    return from_units(units, client, num_clients, f"iid({num_clients}, unit={unit})")
