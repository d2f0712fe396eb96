"""Who attacks, and how an attack becomes a `Recipe.attack`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult

Attack = Callable[[ClientResult, Array, Array], ClientResult]
"""`(result, client_id, key) -> result`, as `Recipe.attack` wants it."""


def attackers(num_clients: int, share: float, seed: int = 0) -> Array:
    """A random subset of the population, of exactly the size asked for.

    Args:
        num_clients: `N`.
        share: of the clients that attack, in `[0, 1]`; `N share` is rounded to the
            nearest, halves to the even.
        seed: of the subset. Larger shares hold the smaller ones of the same seed.

    Returns:
        `[N]` bool.

    Raises:
        ValueError: `share` is not in `[0, 1]`.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share of attackers must be in [0, 1], got {share}")
    order = np.random.default_rng(seed).permutation(num_clients)
    mask = np.zeros(num_clients, bool)
    mask[order[: round(share * num_clients)]] = True
    return jnp.asarray(mask)


def sent_by(members: Array, falsify: Callable[[ClientResult, Array], Tree]) -> Attack:
    """An attack in which members send another delta, and others their own.

    Args:
        members: `[N]` bool, from `attackers`.
        falsify: `(result, key) -> delta`, shaped like the result's delta.

    Returns:
        The attack. What clients keep, report and weigh stays as it is.
    """

    def attack(result: ClientResult, client: Array, key: Array) -> ClientResult:
        bad = members.at[client].get(mode="fill", fill_value=False) & (client >= 0)
        false = falsify(result, key)
        delta = jax.tree.map(
            lambda mine, other: jnp.where(bad, other, mine), result.delta, false
        )
        return dataclasses.replace(result, delta=delta)

    return attack
