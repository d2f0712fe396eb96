"""Deltas with a table and a dense leaf, for tests of sketches."""

import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows

I, D = 40, 4  # noqa: E741
"""Items, and width of their table."""
SIZE = I * D + 20


def delta(seed, touched=6):
    """Random values; a row may occur twice, and the last one is padding."""
    rng = np.random.default_rng(seed)
    ids = np.append(rng.choice(I, touched), I)
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids, jnp.int32),
            values=jnp.asarray(rng.normal(size=(touched + 1, D)), jnp.float32),
        ),
        "w": jnp.asarray(rng.normal(size=20), jnp.float32),
    }
