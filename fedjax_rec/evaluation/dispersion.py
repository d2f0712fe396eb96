"""How evenly a metric is spread over clients: a good mean can hide the badly served."""

import jax.numpy as jnp

from fedjax_rec.core.arrays import Array


def dispersion(values: Array, mask: Array) -> dict[str, Array]:
    """Mean, worst decile, Gini coefficient and standard deviation over clients.

    With x_1 <= ... <= x_n the values of the clients that count:

    - `worst_decile`: the mean of the lowest floor(n / 10) values, at least one [1]
    - `gini`: sum_i (2i - n - 1) x_i / (n sum_i x_i), 0 for equal values (also all
      zero), (n - 1) / n if one client has everything [2]
    - `std`: of the population, sqrt(sum_i (x_i - mean)^2 / n)

    Args:
        values: `[E]`, not negative.
        mask: `[E]` bool; what it leaves out changes nothing.

    Returns:
        Scalars `mean`, `worst_decile`, `gini`, `std`; NaN, but for `gini`, if the mask
        leaves nobody.

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
    place = 2.0 * (index.astype(values.dtype) + 1.0) - n - 1.0
    weighted = jnp.sum(place * ordered)
    squares = jnp.sum(jnp.where(mask, (values - mean) ** 2, 0.0))
    lowest = jnp.sum(jnp.where(index < worst, ordered, 0.0)) / worst
    return {
        "mean": mean,
        "worst_decile": jnp.where(count > 0, lowest, jnp.nan),
        "gini": jnp.where(total > 0, weighted / jnp.where(total > 0, n * total, 1), 0),
        "std": jnp.sqrt(squares / n),
    }
