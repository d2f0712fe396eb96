"""The clients of a population that attack."""

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array


def attackers(num_clients: int, share: float, seed: int = 0) -> Array:
    """A random subset of the population, of an exact size.

    Args:
        num_clients: `N`.
        share: share of attackers in `[0, 1]`; `N share` is rounded to the nearest
            integer, halves to the even one.
        seed: seed of the subset. Larger shares contain the smaller ones of a seed.

    Returns:
        `[N]` bool.

    Raises:
        ValueError: `share` is not in `[0, 1]`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share={share}, expected a number in [0, 1]")
    order = np.random.default_rng(seed).permutation(num_clients)
    mask = np.zeros(num_clients, bool)
    mask[order[: round(share * num_clients)]] = True
    return jnp.asarray(mask)
