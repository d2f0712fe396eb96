"""Quantity skew: few clients hold much, many hold little."""

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


@functools.partial(jax.jit, static_argnames=("num_units", "num_clients"))
def assign_power_law(
    key: Array, exponent: float | Array, *, num_units: int, num_clients: int
) -> Array:
    """Client `c` gets one unit, and of the rest a share `~ (c + 1) ** -exponent`.

    Args:
        key: typed key; decides who goes where, not the sizes.
        exponent: 0 makes all sizes equal.
        num_units: units to deal, at least `num_clients`.
        num_clients: `N`.

    Returns:
        `[num_units]` int32 clients.
    """
    rank = jnp.arange(1, num_clients + 1, dtype=jnp.int32)
    share = jnp.cumsum(rank.astype(jnp.float32) ** -jnp.float32(exponent))
    rest = jnp.round(share / share[-1] * (num_units - num_clients)).astype(jnp.int32)
    # Rounding of large counts must lose nobody: the last client ends at the end.
    ends = (rest + rank).at[-1].set(num_units)
    place = jax.random.permutation(key, num_units)
    return jnp.searchsorted(ends, place, side="right").astype(jnp.int32)


def quantity_skew(
    key: Array,
    train: Interactions,
    num_clients: int,
    exponent: float = 1.0,
    *,
    unit: Unit = "user",
) -> Partition:
    """Clients' sizes follow a power law of their rank; client 0 is the largest.

    Args:
        key: typed key.
        train: the training interactions.
        num_clients: `N`.
        exponent: of the law; 0 makes sizes equal, 1 is Zipf's law.
        unit: sizes are counted in whole users, or in single interactions.

    Returns:
        The partition; no client is empty.

    Raises:
        ValueError: a negative exponent, or more clients than units.

    References:
        Li et al. 2020, Federated optimization in heterogeneous networks,
        arXiv:1812.06127 (power-law sizes).
    """
    if not 0 <= exponent < np.inf:
        raise ValueError(f"exponent={exponent}, expected 0 or more (1 is Zipf's law)")
    units = units_of(train, unit, num_clients)
    client = assign_power_law(
        key, float(exponent), num_units=units.count, num_clients=num_clients
    )
    name = f"quantity_skew({num_clients}, exponent={exponent}, unit={unit})"
    return from_units(units, client, num_clients, name)
