"""The first distinct ones of a sequence of random clients, and how long it has to be.

Clients drawn one by one, with repetitions, until `C` different ones have come: that is
a draw without replacement, uniform if the draws are and successive sampling if they
are weighted. It costs `O(C log C)`, whatever the population.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array

FAILURE = 1e-9
"""How likely a sequence may be too short for its cohort; slots then stay empty."""
SHORT = 16
"""A population up to so many times the cohort is put in order as a whole."""


def first_distinct(
    candidates: Array, size: int, num_clients: int, count: Array | None = None
) -> Array:
    """The first `size` different clients, ascending.

    Args:
        candidates: `[D]` int32 in the order drawn, `D >= size`; `N` is nobody.
        size: `C`.
        num_clients: `N`.
        count: scalar, take only so many of them; `None` is all.

    Returns:
        `[C]` int32; empty slots hold `N` and come last.

    >>> first_distinct(jnp.array([7, 3, 7, 9, 1, 0]), 3, 9).tolist()
    [1, 3, 7]
    """
    position = jnp.arange(candidates.shape[0], dtype=jnp.int32)
    ids, at = jax.lax.sort((candidates, position), num_keys=2)
    new = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
    first = jnp.zeros(new.shape, bool).at[at].set(new & (ids < num_clients))
    wanted = size if count is None else jnp.minimum(count, size)
    chosen = first & (jnp.cumsum(first) <= wanted)
    return jnp.sort(jnp.where(chosen, candidates, num_clients))[:size]


def enough_draws(repeated: np.ndarray, failure: float = FAILURE) -> int | None:
    """How many draws bring all the clients wanted, but for a chance of `failure`.

    The number of draws is a sum of geometric variables, one for each client. Chernoff:
    `P(T > D) <= exp(-t D) prod_j E[exp(t T_j)]` for every `t`, of which the best is
    taken.

    Args:
        repeated: `[C]` bounds on the probability that a draw brings nobody new while
            `j` clients have come, each at least 0.
        failure: the chance.

    Returns:
        The number, or `None` where no number is enough.
    """
    worst = float(repeated.max())
    if worst >= 1:
        return None
    # E[exp(t T)] = (1 - q) exp(t) / (1 - q exp(t)), for t below -log(q).
    most = -np.log(worst) if worst > 0 else 40.0
    best = np.inf
    for t in most * np.concatenate([np.logspace(-4, -0.3, 40), np.linspace(0.5, 1)]):
        left = 1 - repeated * np.exp(t)
        if left.min() <= 0:
            continue
        log = np.log1p(-repeated).sum() + t * len(repeated) - np.log(left).sum()
        best = min(best, (log - np.log(failure)) / t)
    return int(np.ceil(max(best, len(repeated))))


def draws_or_whole(repeated: np.ndarray, num_clients: int) -> int | None:
    """Draws for a cohort; `None` where the whole population is rather put in order.

    Args:
        repeated: as in `enough_draws`.
        num_clients: `N`.
    """
    if num_clients <= SHORT * len(repeated):
        return None
    draws = enough_draws(repeated)
    # Ordering everybody costs about as much as this many draws and their sorts.
    return None if draws is None or 4 * draws > num_clients else draws


def random_order(key: Array, num_clients: int, draws: int | None) -> Array:
    """Clients one by one, each uniform: `[draws]` with repetitions, or all of them.

    Args:
        key: of the cohort.
        num_clients: `N`.
        draws: `D`; `None` is a permutation `[N]`.

    Returns:
        `[D]` or `[N]` int32.
    """
    if draws is None:
        # Exact up to ties of 32-bit words, which fall to the smaller id.
        words = jax.random.bits(key, (num_clients,), jnp.uint32)
        return jnp.argsort(words).astype(jnp.int32)
    return jax.random.randint(key, (draws,), 0, num_clients, jnp.int32)
