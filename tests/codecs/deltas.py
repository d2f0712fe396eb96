"""A client's deltas of one table and one dense leaf."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.testing.client_delta import sender as sender

I, D = 12, 2  # noqa: E741
SHARED = {"item": rows.Table(values=jnp.zeros((I, D))), "w": jnp.zeros((3, 2))}
CONTEXT: Any = None
"""Codecs read no fact about an experiment."""


def coded(settings, x, key=None):
    """A dense leaf after decoding, and the bits of its message."""
    codec = settings.plain()
    client = sender(jax.random.key(0) if key is None else key)
    message, _ = codec.encode({"w": jnp.asarray(x, jnp.float32)}, (), client)
    return np.asarray(codec.decode(message)["w"]), int(num_bits(message))


def relative_error(x, decoded):
    """Squared error over the squared norm."""
    return np.square(decoded - x).sum() / np.square(x).sum()


def delta(seed):
    """Five touched rows, others each time, and two that are padding."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.r_[rng.choice(I, 5, replace=False), I, I])
    values = rng.normal(size=(7, D)) + 99 * (ids == I)[:, None]
    return {
        "item": rows.Rows(
            ids=jnp.asarray(ids), values=jnp.asarray(values, jnp.float32), num_rows=I
        ),
        "w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32),
    }


def dense(tree):
    """`[I D + 6]`: a delta or a memory as one vector."""
    table = tree["item"]
    if rows.is_rows(table):
        table = rows.scatter_add(jnp.zeros((I, D)), table)
    else:
        table = table.values
    return np.concatenate([np.ravel(table), np.ravel(tree["w"])])


def run(codec, rounds, deltas=delta):
    """`(decoded, states)` of consecutive messages, after the initial state."""
    encode = jax.jit(codec.encode)
    state, decoded, states = codec.init(SHARED), [], []
    for i in range(rounds):
        message, state = encode(deltas(i), state, sender(jax.random.key(i)))
        decoded.append(dense(codec.decode(message)))
        states.append(state)
    return decoded, states
