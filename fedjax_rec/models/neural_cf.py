"""Neural collaborative filtering: an MLP over a user and an item vector."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model
from fedjax_rec.models.losses import binary_cross_entropy
from fedjax_rec.models.users import lookup_users, with_users


def neural_cf(
    num_items: int,
    dim: int = 32,
    hidden: tuple[int, ...] = (32, 16, 8),
    *,
    num_users: int | None = None,
    init_scale: float = 1.0,
    dtype=jnp.float32,
) -> Model:
    """`score(u, i) = MLP([P_u, Q_i])`; the item table `Q` and the MLP are shared.

    Args:
        num_items: `I`.
        dim: `d`, width of user and item vectors.
        hidden: widths of the ReLU layers; a linear layer to one output follows.
        num_users: `None` keeps the user vector personal; a number makes the users a
            shared table too, for clients with several users.
        init_scale: standard deviation of the initial user and item vectors.
        dtype: type of all parameters.

    Returns:
        A model with the shared `item` and `mlp`, and `user`, personal or shared.

    References:
        He et al., Neural Collaborative Filtering, WWW 2017.
    """
    widths = (2 * dim, *hidden, 1)

    def init(key):
        item_key, user_key, *layer_keys = jax.random.split(key, 2 + len(widths) - 1)
        sizes, mlp = pairwise(widths), []
        for layer_key, (fan_in, fan_out) in zip(layer_keys, sizes, strict=True):
            w_key, b_key = jax.random.split(layer_key)
            bound = fan_in**-0.5
            w = jax.random.uniform(w_key, (fan_in, fan_out), dtype, -bound, bound)
            b = jax.random.uniform(b_key, (fan_out,), dtype, -bound, bound)
            mlp.append({"w": w, "b": b})
        items = draw(item_key, (num_items, dim))
        shared = {"item": rows.Table(values=items), "mlp": mlp}
        return with_users(shared, partial(draw, user_key), num_users, dim)

    def draw(key, shape):
        return init_scale * jax.random.normal(key, shape, dtype)

    def logits(params, user_ids, item_ids):
        items = rows.lookup(params.shared["item"], item_ids)
        users = lookup_users(params, user_ids)
        first, *others = params.shared["mlp"]
        # [P_u, Q_i] W = P_u W_top + Q_i W_bottom: the user's half is computed once.
        x = items @ first["w"][dim:] + (users @ first["w"][:dim] + first["b"])
        for layer in others:
            x = jax.nn.relu(x) @ layer["w"] + layer["b"]
        return x[..., 0]

    def loss(params, frozen, batch, key):
        del frozen, key
        predicted = logits(params, batch["user"], batch["item"])
        return binary_cross_entropy(predicted, batch["label"], batch["mask"]), {}

    def score(params, frozen, query, candidates):
        del frozen
        return logits(params, query["user"], candidates)

    return Model(init, loss, score)
