"""Who takes part in a round: cohorts of a fixed shape, pure functions of a key."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedjax_rec.types import Array, struct


@struct
class Participation:
    """Who takes part in a round; slots `[C]` int32, absent ones hold `N`.

    Attributes:
        ids: clients whose message arrives.
        invited: clients that began: those and the ones that dropped out on the way.
    """

    ids: Array
    invited: Array


Sampler = Callable[[Array, Array], Participation]
"""`(key of the round, number of the round) -> Participation`."""


def everyone(num_clients: int) -> Sampler:
    """Every client, every round; `C = N`."""
    return lambda key, number: _complete(jnp.arange(num_clients, dtype=jnp.int32))


def uniform(num_clients: int, cohort_size: int) -> Sampler:
    """`cohort_size` clients, uniform without replacement.

    Args:
        num_clients: `N`.
        cohort_size: `C`.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`.
    """
    _check(num_clients, cohort_size)

    def sample(key: Array, number: Array) -> Participation:
        del number
        # The C smallest of N distinct random words: exact up to ties of 32-bit words.
        words = jax.random.bits(key, (num_clients,), jnp.uint32)
        order = jnp.argsort(words)
        return _complete(jnp.sort(order[:cohort_size]).astype(jnp.int32))

    return sample


def poisson(num_clients: int, mean: float, cohort_size: int) -> Sampler:
    """Each client on its own with probability `mean / N`, at most `cohort_size`.

    Poisson sampling is what privacy accounting assumes; when more clients come than
    the fixed shape holds, uniformly chosen ones stay out. At a `cohort_size` of
    `mean + 4 sqrt(mean)` that happens in fewer than 1 of 10,000 rounds.

    Args:
        num_clients: `N`.
        mean: expected cohort, in `(0, N]`.
        cohort_size: `C`, the most that can take part.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`, or `mean` not in `(0, N]`.
    """
    _check(num_clients, cohort_size)
    if not 0 < mean <= num_clients:
        raise ValueError(f"the mean cohort must lie in (0, {num_clients}], got {mean}")

    def sample(key: Array, number: Array) -> Participation:
        del number
        draws = jax.random.uniform(key, (num_clients,))
        # Those below the threshold, in random order since the draws are.
        order = jnp.argsort(draws)[:cohort_size].astype(jnp.int32)
        chosen = draws[order] < mean / num_clients
        return _complete(jnp.sort(jnp.where(chosen, order, num_clients)))

    return sample


def _complete(ids: Array) -> Participation:
    return Participation(ids=ids, invited=ids)


def _check(num_clients: int, cohort_size: int) -> None:
    if not 1 <= cohort_size <= num_clients:
        raise ValueError(
            f"a cohort must hold 1 to {num_clients} clients (the population), got "
            f"{cohort_size}"
        )
