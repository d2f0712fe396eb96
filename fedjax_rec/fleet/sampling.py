"""Cohorts of a fixed shape, as pure functions of a key.

Clients are drawn one by one, with repetitions, until `C` distinct ones have come: that
is a draw without replacement, uniform if the draws are and successive sampling if they
are weighted. It costs `O(C log C)` in any population; if the cohort is a large part of
the population, the population is put in random order instead, with the same law.
Random words are compared as integers, so that every device draws the same clients.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.rounds import Participation, Sampler

FAILURE = 1e-9
"""Probability that a sequence is too short for its cohort; slots then stay empty."""
SHORT = 16
"""Populations of up to `SHORT * C` clients are put in random order as a whole."""


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
    draws = draws_needed(np.arange(cohort_size) / num_clients, num_clients)

    def sample(_tables: Tree, key: Array, _number: Array) -> Participation:
        order = random_order(key, num_clients, draws)
        if draws is None:
            return complete(jnp.sort(order[:cohort_size]))
        return complete(first_distinct(order, cohort_size, num_clients))

    return Sampler(sample)


def poisson(num_clients: int, mean: float, cohort_size: int) -> Sampler:
    """Each client independently with probability `mean / N`, at most `cohort_size`.

    Poisson sampling is what privacy accounting assumes; if more clients come than the
    fixed shape holds, uniformly chosen ones stay out. At a `cohort_size` of
    `mean + 4 sqrt(mean)` that happens in fewer than 1 of 10,000 rounds. In a large
    population the number of clients is drawn first (binomial), then the clients.

    Args:
        num_clients: `N`.
        mean: expected cohort, in `(0, N]`.
        cohort_size: `C`, the largest possible cohort.

    Returns:
        The sampler.

    Raises:
        ValueError: `cohort_size` is not in `[1, N]`, or `mean` not in `(0, N]`.
    """
    check_size(num_clients, cohort_size)
    if not 0 < mean <= num_clients:
        raise ValueError(f"the mean cohort must lie in (0, {num_clients}], got {mean}")
    share = mean / num_clients
    draws = draws_needed(np.arange(cohort_size) / num_clients, num_clients)

    def from_all(_tables: Tree, key: Array, _number: Array) -> Participation:
        words = jax.random.uniform(key, (num_clients,), jnp.float32)
        # Those below the threshold, in random order since the words are random.
        order = jnp.argsort(words)[:cohort_size].astype(jnp.int32)
        chosen = words[order] < share
        return complete(jnp.sort(jnp.where(chosen, order, num_clients)))

    if draws is None:
        return Sampler(from_all)

    # P(count <= k) for k below C; larger counts are cut down to C.
    k = np.arange(1, cohort_size)
    steps = np.log((num_clients - k + 1) / k) + np.log(share) - np.log1p(-share)
    log = num_clients * np.log1p(-share) + np.concatenate([[0.0], np.cumsum(steps)])
    bounds = thresholds(np.cumsum(np.exp(log)))

    def sample(tables: Tree, key: Array, _number: Array) -> Participation:
        count_key, key = jax.random.split(key)
        word = jax.random.bits(count_key, (), jnp.uint32) >> 1
        count = jnp.searchsorted(tables, word, side="right").astype(jnp.int32)
        order = random_order(key, num_clients, draws)
        return complete(first_distinct(order, cohort_size, num_clients, count))

    return Sampler(sample, bounds)


def weighted(weights: np.ndarray, cohort_size: int) -> Sampler:
    """Without replacement, each next client with probability in proportion to weight.

    Successive sampling: the law of the first `C` distinct ones among draws with
    repetitions, and of the `C` largest of `log w_i` plus Gumbel noise. A client's
    probability of being in a cohort is in proportion to its weight only if small.

    Args:
        weights: `[N]` integers, such as numbers of examples; 0 is never drawn.
        cohort_size: `C`; slots stay empty if fewer clients have a weight.

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
    # In the worst case the clients with the largest weights came first.
    largest = np.sort(np.partition(weights, n - cohort_size)[n - cohort_size :])[::-1]
    draws = draws_needed((np.cumsum(largest) - largest) / total, n)

    def from_all(tables: Array, key: Array, _number: Array) -> Participation:
        noise = jax.random.gumbel(key, (n,), mode="high")
        value, ids = jax.lax.top_k(noise + tables, cohort_size)
        ids = jnp.where(value > -jnp.inf, ids, n).astype(jnp.int32)
        return complete(jnp.sort(ids))

    if draws is None:
        with np.errstate(divide="ignore"):
            return Sampler(from_all, np.log(weights.astype(np.float32)))

    def sample(tables: Array, key: Array, _number: Array) -> Participation:
        words = jax.random.randint(key, (draws,), 0, np.uint32(total), jnp.uint32)
        order = jnp.searchsorted(tables, words, side="right").astype(jnp.int32)
        return complete(first_distinct(order, cohort_size, n))

    return Sampler(sample, ends.astype(np.uint32))


def thresholds(probability: np.ndarray) -> np.ndarray:
    """Probabilities as uint32: a random word `bits >> 1` below one is a success."""
    return np.round(np.clip(probability, 0, 1) * 2.0**31).astype(np.uint32)


def complete(ids: Array) -> Participation:
    """A cohort without dropouts."""
    return Participation(ids=ids, invited=ids, metrics={})


def check_size(num_clients: int, cohort_size: int) -> None:
    """Raises a ValueError unless the population can fill a cohort."""
    if not 1 <= cohort_size <= num_clients:
        raise ValueError(
            f"a cohort must hold 1 to {num_clients} clients (the population), got "
            f"{cohort_size}"
        )


def first_distinct(
    candidates: Array, size: int, num_clients: int, count: Array | None = None
) -> Array:
    """The first `size` distinct clients, ascending.

    Args:
        candidates: `[D]` int32 in the order drawn, `D >= size`; `N` is skipped.
        size: `C`.
        num_clients: `N`.
        count: scalar, takes at most `count` clients; `None` is no limit.

    Returns:
        `[C]` int32; empty slots hold `N` and come last.

    >>> first_distinct(jnp.array([7, 3, 7, 9, 1, 0]), 3, 9).tolist()
    [1, 3, 7]
    """
    position = jnp.arange(candidates.shape[0], dtype=jnp.int32)
    ids, order = jax.lax.sort((candidates, position), num_keys=2)
    new = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
    first = jnp.zeros(new.shape, bool).at[order].set(new & (ids < num_clients))
    wanted = size if count is None else jnp.minimum(count, size)
    chosen = first & (jnp.cumsum(first) <= wanted)
    return jnp.sort(jnp.where(chosen, candidates, num_clients))[:size]


def enough_draws(repeated: np.ndarray, failure: float = FAILURE) -> int | None:
    """Number of draws that find all clients, except with probability `failure`.

    The number of draws is a sum of geometric variables, one for each client. Chernoff:
    `P(T > D) <= exp(-t D) prod_j E[exp(t T_j)]` for every `t`; the best `t` of a grid
    is taken.

    Args:
        repeated: `[C]` upper bounds, each at least 0, on the probability that a draw
            finds no new client after `j` were found.
        failure: probability that the number is too small.

    Returns:
        The number, or `None` if no number is enough.
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


def draws_needed(repeated: np.ndarray, num_clients: int) -> int | None:
    """Draws for a cohort; `None` if ordering the whole population is cheaper.

    Args:
        repeated: see `enough_draws`.
        num_clients: `N`.
    """
    if num_clients <= SHORT * len(repeated):
        return None
    draws = enough_draws(repeated)
    # Ordering all clients costs about as much as this many draws and their sorts.
    return None if draws is None or 4 * draws > num_clients else draws


def random_order(key: Array, num_clients: int, draws: int | None) -> Array:
    """Uniform clients one by one: `[D]` with repetitions, or a permutation.

    Args:
        key: the cohort's key.
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
