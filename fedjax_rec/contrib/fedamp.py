"""FedAMP: one model per client, attracted by the models of similar clients."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from etils import epy

from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from fedjax_rec.core import contracts, rows, stacks


NUMBER = "number"
"""Personal group with the number of the client's model."""

SERVER = ("server_optimizer.", "adapter_lr_scale")
"""Beginnings of the names of a server optimizer's numbers."""

MAX_NUMBERS = 1 << 30
"""Largest size of a stack: 4 GiB in float32, and a round holds about five of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedAMP:
    """Keeps a model for each client, in place of an aggregation rule.

    A client starts from its cloud model `u_i` and sends its delta; the server mixes
    all clients' models by their distances (`message_passing`). The pull to the cloud
    model, `lambda / (2 alpha) ||w - u_i||^2`, is the proximal term of local training,
    `mu = lambda / alpha`, which the system has to have: `FedAvg(proximal=mu)`. Models
    start equal, and the server takes no step of its own.

    With `protocol.evaluated="aggregated"` a client is evaluated by `u_i`, with `tuned`
    by the model that it trains from there, as in the paper.

    Memory grows with the population: about `5 N P` numbers for `P` shared ones.

    Attributes:
        sigma: squared distance of two models at which their attraction falls to
            `1 / e`; by default the mean squared distance of the round, which is the
            metric `amp_distance`. A constant far below it is training in isolation.
        mixing: `alpha N / sigma` in `[0, 1]`: at 1, models with equal distances are
            averaged; at 0, each client trains for itself.

    References:
        Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI
        2021.
    """

    sigma: float | None = None
    mixing: float = 1.0

    brings: ClassVar = ("aggregation", "codec")

    def __post_init__(self) -> None:
        positive = self.sigma is None or self.sigma > 0
        if not positive or not 0 <= self.mixing <= 1:
            raise ValueError(
                f"sigma={self.sigma}, mixing={self.mixing}: expected a positive "
                "squared distance, and a mixing in [0, 1]"
            )

    def build(
        self, context: Context, max_numbers: int = MAX_NUMBERS
    ) -> contracts.Recipe:
        """Wraps `context.recipe`.

        Args:
            context: facts about the experiment.
            max_numbers: largest size of the stack of models.

        Raises:
            ValueError: the stack would be larger, local training has no proximal term,
                or the server takes other steps.
        """
        recipe = context.recipe
        if not recipe.local.proximal:
            raise ValueError(
                "FedAMP pulls clients to their cloud models by a proximal term, and "
                "this system has none: use FedAvg with a positive proximal"
            )
        server = {n: v for n, v in recipe.hparams.items() if n.startswith(SERVER)}
        if any(value != 1 for value in server.values()):
            raise ValueError(
                "FedAMP sets each client's model and the server takes no step: use "
                "server_optimizer=SGD(lr=1.0); this one has "
                + ", ".join(f"{name}={value}" for name, value in server.items())
            )
        num_clients = context.num_clients
        shapes = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
        size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
        if size * num_clients > max_numbers:
            raise ValueError(
                f"FedAMP keeps a model of {size:,} numbers for each of {num_clients:,} "
                f"clients, and several copies of them: {size * num_clients:.2g} "
                f"numbers are more than {max_numbers:.2g}. Use fewer clients or items, "
                "a narrower model, or clusters, which keep a model per cluster"
            )
        made = stacks.stacked(
            recipe,
            num_clients,
            lambda params: params.personal[NUMBER],
            personal={NUMBER: jnp.zeros((), jnp.int32)},
            equal_start=True,
        )
        stack = made.model.stack
        assert stack is not None

        def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
            result = recipe.client_update(
                stack.take(params), frozen, examples, hparams, key
            )
            return result.extended(personal={NUMBER: params.personal[NUMBER]})

        numbers = np.arange(num_clients, dtype=np.int32)
        return made._replace(
            client_update=update,
            aggregator=message_passing(num_clients, self.sigma, self.mixing),
            server_optimizer=lambda hparams: optax.sgd(1.0),
            hparams={n: v for n, v in recipe.hparams.items() if n not in server},
            constants={**(recipe.constants or {}), NUMBER: numbers},
        )


class Changes(NamedTuple):
    """Deltas of a cohort, by client of the population.

    Attributes:
        deltas: like the stack of models, zeros for absent clients.
        present: `[N]`, 1 for the clients of the cohort.
    """

    deltas: Any
    present: jax.Array


class ClientModels(NamedTuple):
    """The server's state.

    Attributes:
        models: `w`, the stack of the clients' models as they last sent them.
        joined: `[N]`, 1 for the clients that ever took part.
    """

    models: Any
    joined: jax.Array


def message_passing(
    num_clients: int, sigma: float | None = None, mixing: float = 1.0
) -> contracts.Aggregator:
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
        sigma: squared distance at which attraction falls to `1 / e`; `None` for the
            mean squared distance of the clients that took part.
        mixing: a number in `[0, 1]`.

    Returns:
        An aggregator; `info` has `amp_distance`, the mean squared distance between the
        models of clients that took part, and `amp_self`, their mean `xi_ii`.

    References:
        Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI
        2021, equations 3 to 7.
    """

    def start(shared: Any) -> ClientModels:
        dtype = jax.tree.leaves(shared)[0].dtype
        return ClientModels(models=shared, joined=jnp.zeros(num_clients, dtype))

    def init(shared: Any, cohort_size: int) -> Changes:
        zeros = jax.tree.map(jnp.zeros_like, shared)
        return Changes(deltas=zeros, present=start(shared).joined)

    def update(acc: Changes, deltas: Any, weights: jax.Array, senders) -> Changes:
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

    def finish(acc: Changes, state: ClientModels, shared: Any):
        present = acc.present > 0
        joined = jnp.where(present, 1, state.joined)

        def trained(u, delta, before, axis: int):
            mask = jnp.expand_dims(present, [a for a in range(u.ndim) if a != axis])
            return jnp.where(mask, u + delta, before)

        models = _by_leaf(trained, shared, acc.deltas, state.models)
        squares = squared_distances(models, num_clients)
        others = (joined > 0) & ~jnp.eye(num_clients, dtype=bool)
        pairs = others & (joined > 0)[:, None]
        distance = jnp.where(pairs, squares, 0).sum() / jnp.maximum(pairs.sum(), 1)
        scale = jnp.where(distance > 0, distance, 1) if sigma is None else sigma
        attraction = jnp.where(
            others, mixing / num_clients * jnp.exp(-squares / scale), 0
        )
        own_share = 1 - attraction.sum(1)
        xi = attraction + jnp.diag(own_share)

        def mix(w, u, axis: int):
            moved = jnp.moveaxis(jnp.tensordot(xi, w, (1, axis)), 0, axis)
            return moved.astype(u.dtype) - u

        delta = _by_leaf(mix, models, shared)
        mean_self = (own_share * joined).sum() / jnp.maximum(joined.sum(), 1)
        info = {"amp_distance": distance, "amp_self": mean_self}
        return delta, ClientModels(models=models, joined=joined), info

    return contracts.Aggregator(init, update, finish, start)


def squared_distances(models: Any, num_clients: int) -> jax.Array:
    """Squared distances `[N, N]` between the models of a stack, over all leaves.

    Distances that overflow are infinite.
    """
    total = jnp.zeros(())
    for leaf in jax.tree.leaves(models, is_leaf=rows.is_table):
        x, axis = (leaf.values, 1) if rows.is_table(leaf) else (leaf, 0)
        # Subtracting the mean leaves distances as they are, and cancels less.
        x = jnp.moveaxis(x - x.mean(axis, keepdims=True), axis, 0)
        flat = x.reshape(num_clients, -1)
        norms = (flat**2).sum(1)
        total += norms + norms[:, None] - 2 * flat @ flat.T
    # Squares of a model that has gone far overflow, to a difference of infinities.
    total = jnp.where(jnp.isnan(total), jnp.inf, jnp.maximum(total, 0))
    return jnp.where(jnp.eye(num_clients, dtype=bool), 0, total)


def _by_leaf(fn, tree: Any, *rest: Any) -> Any:
    """Maps `fn(*arrays, axis)` over leaves, with the axis of the stack's models."""

    def one(leaf, *others):
        if not rows.is_table(leaf):
            return fn(leaf, *others, 0)
        values = fn(leaf.values, *(other.values for other in others), 1)
        return dataclasses.replace(leaf, values=values)

    return jax.tree.map(one, tree, *rest, is_leaf=rows.is_table)
