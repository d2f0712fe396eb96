"""Means over users, and how evenly a metric is spread over clients.

A good mean can hide badly served clients.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core.arrays import Array
from fedjax_rec.evaluation.protocol import main_cutoff


def summarise(
    per_user: Mapping[str, Array], mask: Array, clients: np.ndarray | None = None
) -> dict[str, float]:
    """Means over users, and how evenly NDCG is spread over clients.

    Args:
        per_user: metric name to `[E]`, see `evaluate`.
        mask: `[E]` bool, see `Targets.mask`.
        clients: `[E]` the client of each user, if some clients hold several users: a
            client's value is then the mean of its users'.

    Returns:
        Each metric's mean under its own name; for `ndcg@10` (without it, the first
        cut-off) also `ndcg@10/worst_decile`, `ndcg@10/gini` and `ndcg@10/std`.
    """
    group = None
    if clients is not None:
        group = np.unique(clients, return_inverse=True)[1].astype(np.int32)
    summary = jax.device_get(_summary(dict(per_user), mask, group))
    return {name: float(value) for name, value in summary.items()}


@jax.jit
def _summary(
    per_user: dict[str, Array], mask: Array, group: Array | None
) -> dict[str, Array]:
    count = jnp.sum(mask, dtype=jnp.float32)
    summary = {
        name: jnp.sum(jnp.where(mask, values, 0.0)) / count
        for name, values in per_user.items()
    }
    cutoffs = [int(name[5:]) for name in per_user if name.startswith("ndcg@")]
    if cutoffs:
        name = f"ndcg@{main_cutoff(cutoffs)}"
        values = per_user[name]
        if group is not None:
            values, mask = _by_group(values, mask, group)
        spread = dispersion(values, mask)
        for statistic in ("worst_decile", "gini", "std"):
            summary[f"{name}/{statistic}"] = spread[statistic]
    return summary


def _by_group(values: Array, mask: Array, group: Array) -> tuple[Array, Array]:
    """Means of the unmasked values in each group, and which groups have any; `[E]`."""
    (size,) = values.shape
    total = jnp.zeros(size).at[group].add(jnp.where(mask, values, 0))
    count = jnp.zeros(size).at[group].add(mask)
    return total / jnp.maximum(count, 1), count > 0


def dispersion(values: Array, mask: Array) -> dict[str, Array]:
    """Mean, worst decile, Gini coefficient and standard deviation over clients.

    With x_1 <= ... <= x_n the values of the clients that count:

    - `worst_decile`: the mean of the lowest floor(n / 10) values, at least one [1]
    - `gini`: sum_i (2i - n - 1) x_i / (n sum_i x_i), 0 for equal values (also all
      zero), (n - 1) / n if one client has everything [2]
    - `std`: that of the population, sqrt(sum_i (x_i - mean)^2 / n)

    Args:
        values: `[E]`, not negative.
        mask: `[E]` bool; masked values change no result.

    Returns:
        Scalars `mean`, `worst_decile`, `gini`, `std`; NaN, except `gini`, if every
        value is masked.

    References:
        [1] Li et al., "Fair Resource Allocation in Federated Learning" (q-FFL), ICLR
        2020. [2] Gini, "Variabilità e mutabilità", 1912; Sen, "On Economic
        Inequality", 1973.

    >>> dispersion(jnp.array([0.0, 0.0, 0.0, 8.0]), jnp.ones(4, bool))["gini"]
    Array(0.75, dtype=float32)
    """
    (width,) = values.shape
    count = jnp.sum(mask, dtype=jnp.int32)
    n = count.astype(values.dtype)
    index = jnp.arange(width, dtype=jnp.int32)
    ordered = jnp.sort(jnp.where(mask, values, jnp.inf))
    ordered = jnp.where(index < count, ordered, 0.0)
    total = jnp.sum(ordered)
    mean = total / n
    worst = jnp.maximum(count // 10, 1)
    rank = 2.0 * (index.astype(values.dtype) + 1.0) - n - 1.0
    weighted = jnp.sum(rank * ordered)
    squares = jnp.sum(jnp.where(mask, (values - mean) ** 2, 0.0))
    lowest = jnp.sum(jnp.where(index < worst, ordered, 0.0)) / worst
    return {
        "mean": mean,
        "worst_decile": jnp.where(count > 0, lowest, jnp.nan),
        "gini": jnp.where(total > 0, weighted / jnp.where(total > 0, n * total, 1), 0),
        "std": jnp.sqrt(squares / n),
    }
