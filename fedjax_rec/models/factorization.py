"""Matrix factorization, for implicit and explicit feedback."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model
from fedjax_rec.models.losses import binary_cross_entropy, masked_mean, squared_error
from fedjax_rec.models.users import lookup_users, with_users


def matrix_factorization(
    num_items: int,
    dim: int = 32,
    *,
    num_users: int | None = None,
    init: Literal["normal", "constant"] = "normal",
    init_scale: float = 0.1,
    loss: Literal["bce", "mse"] = "bce",
    user_l2: float = 0.0,
    item_l2: float = 0.0,
    dtype=jnp.float32,
) -> Model:
    """`score(u, i) = P_u . Q_i`; the item table `Q` is shared.

    Args:
        num_items: `I`.
        dim: `d`.
        num_users: `None` keeps the user vector personal; a number makes the users a
            shared table too, for clients with several users.
        init: `normal` with standard deviation `init_scale`, or `constant`.
        init_scale: scale, or value, of the initial entries.
        loss: `bce` on a 0/1 `label` through a sigmoid, `mse` on a rating `label`.
        user_l2: adds `user_l2 |P_u|^2` to each example's loss.
        item_l2: adds `item_l2 |Q_i|^2` to each example's loss.
        dtype: type of all parameters.

    Returns:
        A model with the shared table `item`, and `user`, personal or a shared table.

    References:
        Koren et al., Matrix Factorization Techniques for Recommender Systems,
        Computer 2009.
    """
    criterion = {"bce": binary_cross_entropy, "mse": squared_error}[loss]

    def draw(key, shape):
        if init == "constant":
            return jnp.full(shape, init_scale, dtype)
        return init_scale * jax.random.normal(key, shape, dtype)

    def initial(key):
        item_key, user_key = jax.random.split(key)
        shared = {"item": rows.Table(values=draw(item_key, (num_items, dim)))}
        return with_users(shared, partial(draw, user_key), num_users, dim)

    def batch_loss(params, frozen, batch, key):
        del frozen, key
        users = lookup_users(params, batch["user"])
        items = rows.lookup(params.shared["item"], batch["item"])
        predicted = items @ users if users.ndim == 1 else (items * users).sum(-1)
        value = criterion(predicted, batch["label"], batch["mask"])
        if user_l2 or item_l2:
            penalty = user_l2 * jnp.sum(users**2, -1) + item_l2 * jnp.sum(items**2, -1)
            value += masked_mean(penalty, batch["mask"])
        return value, {}

    def score(params, frozen, query, candidates):
        del frozen
        items = rows.lookup(params.shared["item"], candidates)
        return items @ lookup_users(params, query["user"])

    return Model(initial, batch_loss, score)
