"""Who takes part in a round: cohorts of a fixed shape, pure functions of a key.

A round's draw costs what its cohort costs, not what the population would. Where the
cohort is a large part of the population, the population is put in random order instead:
the same law. Chance is compared as integers, so that every device draws the same.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.rounds import Participation, Sampler
from fedjax_rec.fleet.distinct import draws_or_whole, first_distinct, random_order


def everyone(num_clients: int) -> Sampler:
    """Every client, every round; `C = N`."""
    return Sampler(lambda *_: complete(jnp.arange(num_clients, dtype=jnp.int32)))


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
    check_size(num_clients, cohort_size)
    draws = draws_or_whole(np.arange(cohort_size) / num_clients, num_clients)

    def sample(tables: Tree, key: Array, number: Array) -> Participation:
        del tables, number
        order = random_order(key, num_clients, draws)
        if draws is None:
            return complete(jnp.sort(order[:cohort_size]))
        return complete(first_distinct(order, cohort_size, num_clients))

    return Sampler(sample)


def poisson(num_clients: int, mean: float, cohort_size: int) -> Sampler:
    """Each client on its own with probability `mean / N`, at most `cohort_size`.

    Poisson sampling is what privacy accounting assumes; when more clients come than
    the fixed shape holds, uniformly chosen ones stay out. At a `cohort_size` of
    `mean + 4 sqrt(mean)` that happens in fewer than 1 of 10,000 rounds. In a large
    population the number of clients is drawn first (binomial), then who they are.

    Args:
        num_clients: `N`.
        mean: expected cohort, in `(0, N]`.
        cohort_size: `C`, the most that can take part.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`, or `mean` not in `(0, N]`.
    """
    check_size(num_clients, cohort_size)
    if not 0 < mean <= num_clients:
        raise ValueError(f"the mean cohort must lie in (0, {num_clients}], got {mean}")
    share = mean / num_clients
    draws = draws_or_whole(np.arange(cohort_size) / num_clients, num_clients)

    def from_all(tables: Tree, key: Array, number: Array) -> Participation:
        del tables, number
        words = jax.random.uniform(key, (num_clients,))
        # Those below the threshold, in random order since the draws are.
        order = jnp.argsort(words)[:cohort_size].astype(jnp.int32)
        chosen = words[order] < share
        return complete(jnp.sort(jnp.where(chosen, order, num_clients)))

    if draws is None:
        return Sampler(from_all)

    # P(count <= k) for k below C; what is left above is cut down to C.
    k = np.arange(1, cohort_size)
    steps = np.log((num_clients - k + 1) / k) + np.log(share) - np.log1p(-share)
    log = num_clients * np.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    bounds = chances(np.cumsum(np.exp(log)))

    def sample(tables: Tree, key: Array, number: Array) -> Participation:
        del number
        count_key, key = jax.random.split(key)
        word = jax.random.bits(count_key, (), jnp.uint32) >> 1
        count = jnp.searchsorted(tables, word, side="right").astype(jnp.int32)
        order = random_order(key, num_clients, draws)
        return complete(first_distinct(order, cohort_size, num_clients, count))

    return Sampler(sample, bounds)


def weighted(weights: np.ndarray, cohort_size: int) -> Sampler:
    """Without replacement, each next client with probability in proportion to weight.

    Successive sampling: the law of the first `C` of draws with repetitions that are
    new, and of the `C` largest of `log w_i` plus Gumbel noise. A client's chance to be
    in a cohort is in proportion to its weight only where that chance is small.

    Args:
        weights: `[N]` integers, such as numbers of examples; 0 never comes.
        cohort_size: `C`; where fewer have a weight, slots stay empty.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`, or weights are negative, all 0 or
            add up to 2**32 or more.

    References:
        Efraimidis and Spirakis, Weighted random sampling with a reservoir, Information
        Processing Letters 2006.
    """
    weights = np.asarray(weights, np.int64)
    n = len(weights)
    check_size(n, cohort_size)
    ends = np.cumsum(weights)
    total = int(ends[-1])
    if weights.min() < 0 or not 0 < total < 2**32:
        raise ValueError(
            "weights must be 0 or more with a sum in [1, 2**32), got a smallest of "
            f"{weights.min()} and a sum of {total}"
        )
    # At worst the largest came first.
    largest = np.sort(np.partition(weights, n - cohort_size)[n - cohort_size :])[::-1]
    repeated = (np.cumsum(largest) - largest) / total
    draws = draws_or_whole(repeated, n)

    def from_all(tables: Array, key: Array, number: Array) -> Participation:
        del number
        noise = jax.random.gumbel(key, (n,), mode="high")
        value, ids = jax.lax.top_k(noise + tables, cohort_size)
        ids = jnp.where(value > -jnp.inf, ids, n).astype(jnp.int32)
        return complete(jnp.sort(ids))

    if draws is None:
        with np.errstate(divide="ignore"):
            return Sampler(from_all, np.log(weights.astype(np.float32)))

    def sample(tables: Array, key: Array, number: Array) -> Participation:
        del number
        at = jax.random.randint(key, (draws,), 0, np.uint32(total), jnp.uint32)
        order = jnp.searchsorted(tables, at, side="right").astype(jnp.int32)
        return complete(first_distinct(order, cohort_size, n))

    return Sampler(sample, ends.astype(np.uint32))


def chances(probability: np.ndarray) -> np.ndarray:
    """Probabilities as uint32 thresholds: a word `bits >> 1` below one is a success."""
    return np.round(np.clip(probability, 0, 1) * 2.0**31).astype(np.uint32)


def complete(ids: Array) -> Participation:
    """A cohort in which nobody drops out."""
    return Participation(ids=ids, invited=ids, metrics={})


def check_size(num_clients: int, cohort_size: int) -> None:
    """Raises a ValueError unless a cohort is a part of the population."""
    if not 1 <= cohort_size <= num_clients:
        raise ValueError(
            f"a cohort must hold 1 to {num_clients} clients (the population), got "
            f"{cohort_size}"
        )
