"""The number of local steps of a client."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_rec.core.arrays import Array

Steps = Callable[[Array], Array]


def local_steps(
    batch_size: int, epochs: int = 1, pairs: int = 1, group: int = 1
) -> Steps:
    """Steps of `local_update` by the number of examples, without batches of padding.

    Args:
        batch_size: pairs of a batch.
        epochs: passes over the pairs in a round.
        pairs: pairs of an example: a positive and its negatives.
        group: consecutive pairs that stay together.

    Returns:
        `(examples [V]) -> [V]`.

    >>> print(local_steps(8, epochs=2, pairs=3)(jnp.array([1.0, 3.0, 0.0])))
    [2. 4. 0.]
    """
    size = max(1, batch_size // group)
    return lambda examples: epochs * jnp.ceil(examples * pairs / group / size)
