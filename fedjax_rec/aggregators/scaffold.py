"""SCAFFOLD's server: its control variate is the mean of all clients' own."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator, Senders

CONTROL = "control"
"""The group of `clients.control`."""


def scaffold(inner: Aggregator, num_clients: int) -> Aggregator:
    """`c <- c + 1/N sum_i (c_i^new - c_i)`; all other groups go by another rule.

    `c` stays the mean over the population, whoever takes part; of a table's row, too,
    most of whose clients never touch it. Its delta is exact if
    the server takes it as it is, by a step of 1.

    Args:
        inner: the rule for the other groups; the paper's is the uniform mean.
        num_clients: `N`.

    Returns:
        An aggregator.

    Raises:
        ValueError: there is no client; in `init`, nor a group `control`.

    References:
        Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated
        Learning, ICML 2020, algorithm 1.
    """
    if num_clients < 1:
        raise ValueError(f"num_clients={num_clients}, expected at least 1")

    def others(tree: Tree) -> Tree:
        return {name: part for name, part in tree.items() if name != CONTROL}

    def init(shared: Tree, cohort_size: int):
        if CONTROL not in shared:
            raise ValueError(
                f"{CONTROL!r} is not among the shared groups {', '.join(shared)}: make "
                "the model with clients.control.with_control"
            )
        zeros = jax.tree.map(jnp.zeros_like, shared[CONTROL])
        return inner.init(others(shared), cohort_size), zeros

    def update(acc, deltas: Tree, weights: Array, senders: Senders):
        here = (weights > 0).astype(weights.dtype)

        def add(total, d):
            if rows.is_table(total):
                values = rows.scatter_add(total.values, d, here)
                return dataclasses.replace(total, values=values)
            return total + jnp.tensordot(here, d, 1).astype(total.dtype)

        control = jax.tree.map(add, acc[1], deltas[CONTROL], is_leaf=rows.is_table)
        return inner.update(acc[0], others(deltas), weights, senders), control

    def finish(acc, state: Tree, shared: Tree):
        delta, state, info = inner.finish(acc[0], state, others(shared))
        mean = jax.tree.map(lambda x: x / num_clients, acc[1])
        return {**delta, CONTROL: mean}, state, info

    def start(shared: Tree) -> Tree:
        return inner.start(others(shared))

    def begin(acc, state: Tree):
        return inner.begin(acc[0], state), acc[1]

    return Aggregator(init, update, finish, start, begin=begin)
