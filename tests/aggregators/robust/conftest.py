"""Cohorts for the robust rules."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Aggregator, Senders
from tests.aggregators.cohorts import built

I, D = 5, 2  # noqa: E741


def shared_like(dtype):
    return {
        "item": rows.Table(values=jnp.zeros((I, D), dtype)),
        "w": jnp.zeros(4, dtype),
    }


def sent(x, touched):
    """Deltas as clients send them: rows in some order, padded with garbage."""
    rng = np.random.default_rng(0)
    clients = len(x)
    item = x[:, : I * D].reshape(clients, I, D)
    ids = np.full((clients, I + 2), I)
    values = np.full((clients, I + 2, D), 1e9)
    for c in range(clients):
        real = rng.permutation(np.flatnonzero(touched[c]))
        places = np.sort(rng.permutation(I + 2)[: len(real)])
        ids[c, places], values[c, places] = real, item[c, real]
    ids, values = jnp.asarray(ids, jnp.int32), jnp.asarray(values, x.dtype)
    return {"item": rows.Rows(ids=ids, values=values), "w": jnp.asarray(x[:, I * D :])}


@functools.cache
def jitted(function, static):
    return jax.jit(function, static_argnums=static)


@pytest.fixture
def fold():
    """`(rule, x, weights, ...) -> (delta [P], state, info)`.

    `rule` is settings or an aggregator; `x` is `[C, P]` with `P = I D + 4`, the item
    table first, then the dense leaf.
    Each group of clients has an accumulator of its own; in the end they are added up.
    """

    def run(
        rule,
        x,
        weights=None,
        *,
        touched=None,
        groups=None,
        state=None,
        slots=None,
        jit=True,
    ):
        aggregator = rule if isinstance(rule, Aggregator) else built(rule)
        x = np.asarray(x)
        c = len(x)
        weights = np.ones(c) if weights is None else np.asarray(weights)
        touched = np.ones((c, I), bool) if touched is None else touched
        slots = np.arange(c) if slots is None else np.asarray(slots)
        shared = shared_like(x.dtype)
        deltas = sent(x, touched)
        update, finish = aggregator.update, aggregator.finish
        if jit:
            update, finish = jitted(update, ()), jitted(finish, ())
        state = aggregator.start(shared) if state is None else state
        total = None
        for group in [np.arange(c)] if groups is None else groups:
            chosen = np.asarray(group)
            acc = aggregator.init(shared, max(c, int(slots.max()) + 1))
            part = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], deltas)
            ids = jnp.asarray(slots[chosen], jnp.int32)
            senders = Senders(slots=ids, ids=ids, loss=jnp.zeros(len(chosen)))
            sizes = jnp.asarray(weights[chosen], x.dtype)
            acc = update(aggregator.begin(acc, state), part, sizes, senders)
            total = acc if total is None else jax.tree.map(jnp.add, total, acc)
        delta, new, info = finish(total, state, shared)
        item = np.asarray(delta["item"].values).reshape(-1)
        return np.concatenate([item, np.asarray(delta["w"])]), new, info

    return run
