"""Attentive message passing between the models of all clients (FedAMP)."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class Changes:
    """Deltas of a cohort, by client of the population.

    Attributes:
        deltas: like the stack of models, zeros for absent clients.
        present: `[N]`, 1 for the clients of the cohort.
    """

    deltas: Tree
    present: Array


@struct
class ClientModels:
    """The server's state.

    Attributes:
        models: `w`, the stack of the clients' models as they last sent them.
        joined: `[N]`, 1 for the clients that ever took part.
    """

    models: Tree
    joined: Array


def message_passing(num_clients: int, sigma: float, mixing: float = 1.0) -> Aggregator:
    """`u_i = sum_j xi_ij w_j`: a personal cloud model for each client.

    `xi_ij = alpha A'(||w_i - w_j||^2)` for `j != i`, with `A(x) = 1 - exp(-x / sigma)`,
    and `xi_ii = 1 - sum_j xi_ij`. The step is `alpha = mixing sigma / N`, so that
    `xi_ij = mixing / N exp(-||w_i - w_j||^2 / sigma)` and no weight is negative. As
    `sigma` grows, `u_i` becomes the uniform mean (at `mixing = 1`); as it falls, `w_i`.

    The shared parameters are the stack of all `u_i`; a client's delta is added to its
    own, which gives its `w_i`. Absent clients keep the model they sent last, and
    clients that never took part attract no others. Numbers of examples do not count.

    Memory: `u`, `w`, the deltas and their aggregate are each `N P` numbers, with `P`
    shared ones of a model, and the distances `N^2`; a round takes `4 N^2 P` operations,
    and on several devices its all-reduce is of `N P` numbers.

    Args:
        num_clients: `N`.
        sigma: squared distance at which attraction falls to `1 / e`.
        mixing: a number in `[0, 1]`.

    Returns:
        An aggregator; `info` has `amp_distance`, the mean squared distance between the
        models of clients that took part, and `amp_self`, their mean `xi_ii`.

    References:
        Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI
        2021, equations 3 to 7.
    """

    def start(shared: Tree) -> ClientModels:
        dtype = jax.tree.leaves(shared)[0].dtype
        return ClientModels(models=shared, joined=jnp.zeros(num_clients, dtype))

    def init(shared: Tree, cohort_size: int) -> Changes:
        del cohort_size
        zeros = jax.tree.map(jnp.zeros_like, shared)
        return Changes(deltas=zeros, present=start(shared).joined)

    def update(acc: Changes, deltas: Tree, weights: Array, senders: Senders) -> Changes:
        ids = jnp.where(weights > 0, senders.ids, num_clients)

        def put(total, delta):
            if not rows.is_table(total):
                return total.at[ids].add(delta.astype(total.dtype), mode="drop")
            model = jnp.broadcast_to(ids[:, None], delta.ids.shape)
            values = total.values.at[delta.ids, model].add(
                delta.values.astype(total.values.dtype), mode="drop"
            )
            return dataclasses.replace(total, values=values)

        return Changes(
            deltas=jax.tree.map(put, acc.deltas, deltas, is_leaf=rows.is_table),
            present=acc.present.at[ids].add(1, mode="drop"),
        )

    def finish(acc: Changes, state: ClientModels, shared: Tree):
        present = acc.present > 0
        joined = jnp.where(present, 1, state.joined)

        def trained(u, delta, before, axis: int):
            mask = jnp.expand_dims(present, [a for a in range(u.ndim) if a != axis])
            return jnp.where(mask, u + delta, before)

        models = _by_leaf(trained, shared, acc.deltas, state.models)
        squares = squared_distances(models, num_clients)
        others = (joined > 0) & ~jnp.eye(num_clients, dtype=bool)
        attraction = jnp.where(
            others, mixing / num_clients * jnp.exp(-squares / sigma), 0
        )
        own_share = 1 - attraction.sum(1)
        xi = attraction + jnp.diag(own_share)

        def mix(w, u, axis: int):
            moved = jnp.moveaxis(jnp.tensordot(xi, w, (1, axis)), 0, axis)
            return moved.astype(u.dtype) - u

        delta = _by_leaf(mix, models, shared)
        pairs = others & (joined > 0)[:, None]
        info = {
            "amp_distance": jnp.where(pairs, squares, 0).sum()
            / jnp.maximum(pairs.sum(), 1),
            "amp_self": (own_share * joined).sum() / jnp.maximum(joined.sum(), 1),
        }
        return delta, ClientModels(models=models, joined=joined), info

    return Aggregator(init, update, finish, start)


def squared_distances(models: Tree, num_clients: int) -> Array:
    """Squared distances `[N, N]` between the models of a stack, over all leaves."""
    total = jnp.zeros(())
    for leaf in jax.tree.leaves(models, is_leaf=rows.is_table):
        x, axis = (leaf.values, 1) if rows.is_table(leaf) else (leaf, 0)
        # Subtracting the mean leaves distances as they are, and cancels less.
        x = jnp.moveaxis(x - x.mean(axis, keepdims=True), axis, 0)
        flat = x.reshape(num_clients, -1)
        norms = (flat**2).sum(1)
        total += norms + norms[:, None] - 2 * flat @ flat.T
    return jnp.maximum(total, 0) * (1 - jnp.eye(num_clients))


def _by_leaf(fn, tree: Tree, *rest: Tree) -> Tree:
    """Maps `fn(*arrays, axis)` over leaves, with the axis of the stack's models."""

    def one(leaf, *others):
        if not rows.is_table(leaf):
            return fn(leaf, *others, 0)
        values = fn(leaf.values, *(other.values for other in others), 1)
        return dataclasses.replace(leaf, values=values)

    return jax.tree.map(one, tree, *rest, is_leaf=rows.is_table)
