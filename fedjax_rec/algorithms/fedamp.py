"""FedAMP: a model for each client, drawn towards those of clients like it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_rec.aggregators.message_passing import message_passing
from fedjax_rec.algorithms.stacked import stacked
from fedjax_rec.core.contracts import ClientResult, Params, Recipe

NUMBER = "number"
"""The personal group that tells a client which model is its own."""

MOST = 1 << 30
"""Numbers of a stack of models: 4 GiB in float32, of which a round holds about five."""


def fedamp(
    recipe: Recipe,
    num_clients: int,
    *,
    sigma: float,
    mixing: float = 1.0,
    most: int = MOST,
) -> Recipe:
    """Trains a model for each client where a recipe trains one for all.

    A client starts from its cloud model `u_i` and sends its delta; the server mixes
    all clients' models anew, by their distances (`aggregators.message_passing`). The
    pull to the cloud model, `lambda / (2 alpha) ||w - u_i||^2`, is the proximal term
    of the recipe's local training: `mu = lambda / alpha`. Models start alike, the
    server takes no step of its own.

    By `protocol.evaluated` a client is ranked by `u_i` (`aggregated`) or by the model
    that it trains from there (`tuned`), the paper's.

    Memory grows with the population: about `5 N P` numbers with `P` shared ones.

    Args:
        recipe: of one model, not lifted.
        num_clients: `N`.
        sigma: of `A(x) = 1 - exp(-x / sigma)`.
        mixing: `alpha N / sigma`, in `[0, 1]`.
        most: numbers that a stack of models may have.

    Returns:
        A recipe of the same system.

    Raises:
        ValueError: the recipe is lifted, has a codec or an attack; the stack would be
            too large; or as `message_passing`.

    References:
        Huang et al., Personalized Cross-Silo Federated Learning on Non-IID Data, AAAI
        2021.
    """
    rule = message_passing(num_clients, sigma, mixing)
    shapes = jax.eval_shape(recipe.model.init, jax.random.key(0)).shared
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    if size * num_clients > most:
        raise ValueError(
            f"FedAMP keeps a model of {size:,} numbers for each of {num_clients:,} "
            f"clients, and several copies of them: {size * num_clients:.2g} numbers "
            f"are more than {most:.2g}. Take fewer clients or items, a narrower model, "
            "or clusters, which keep a model for each cluster"
        )
    made = stacked(
        recipe,
        num_clients,
        lambda params: params.personal[NUMBER],
        personal={NUMBER: jnp.zeros((), jnp.int32)},
        alike=True,
    )
    assert made.stack is not None
    take = made.stack.take

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        result = recipe.client_update(take(params), frozen, examples, hparams, key)
        personal = {**result.personal, NUMBER: params.personal[NUMBER]}
        return dataclasses.replace(result, personal=personal)

    return made._replace(
        client_update=update,
        aggregator=rule,
        server_optimizer=lambda hparams: optax.sgd(1.0),
        given={**(recipe.given or {}), NUMBER: np.arange(num_clients, dtype=np.int32)},
    )
