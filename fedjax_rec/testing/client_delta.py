"""A client's delta of one table and one array, for laws of codecs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.core import rows
from fedjax_rec.core.messages import Sender

NUM_ITEMS = 23
SHARED: dict[str, Any] = {
    "item": rows.Table(values=jnp.zeros((NUM_ITEMS, 3))),
    "w": jnp.zeros((5, 2)),
}


SCALES = (1.0, 1e-3, 1e3)
"""Sizes of a delta's numbers, for codecs with a step or a threshold."""


def delta_of(seed: int, padding: int = 2, scale: float = 1.0) -> dict[str, Any]:
    """A client's delta: 4 of 23 rows, each once, padding that is NaN, and an array."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(NUM_ITEMS, 4, replace=False)
    ids = np.concatenate([chosen, np.full(padding, NUM_ITEMS)])
    values = np.concatenate([rng.normal(size=(4, 3)), np.full((padding, 3), np.nan)])
    w = rng.normal(size=(5, 2))
    order = rng.permutation(4 + padding)
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids[order], jnp.int32),
            values=jnp.asarray(scale * values[order], jnp.float32),
            num_rows=NUM_ITEMS,
        ),
        "w": jnp.asarray(scale * w, jnp.float32),
    }


def dense(delta: dict[str, Any]) -> dict[str, Any]:
    """A delta with its rows in a dense table."""
    table = rows.scatter_add(jnp.zeros((NUM_ITEMS, 3)), delta["item"])
    return {"item": table, "w": delta["w"]}


def without_padding(delta: Any) -> Any:
    """A delta in which the values of padding rows are zero."""

    def cleared(leaf: Any) -> Any:
        if not rows.is_rows(leaf):
            return leaf
        real = (leaf.ids < NUM_ITEMS)[:, None]
        return dataclasses.replace(leaf, values=jnp.where(real, leaf.values, 0))

    return jax.tree.map(cleared, delta, is_leaf=rows.is_rows)


def sender(key: jax.Array) -> Sender:
    """A client with a key of its own."""
    return Sender(
        id=jnp.int32(0),
        key=key,
        round_key=jax.random.key(0),
        weight=jnp.ones(()),
        personal={},
    )
