"""Models of item ids: matrix factorization, an MLP (NCF), a personal scorer."""

from functools import partial
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.contracts import Model, Params
from fedjax_rec.models.losses import binary_cross_entropy, squared_error
from fedjax_rec.models.products import inner
from fedjax_rec.models.users import lookup_users, with_users


def matrix_factorization(
    num_items: int,
    dim: int = 32,
    *,
    num_users: int | None = None,
    init: Literal["normal", "constant"] = "normal",
    init_scale: float = 0.1,
    loss: Literal["bce", "mse"] = "bce",
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

    def batch_loss(params, frozen, batch, key, hparams):
        users = lookup_users(params, batch["user"])
        items = rows.lookup(params.shared["item"], batch["item"])
        predicted = items @ users if users.ndim == 1 else (items * users).sum(-1)
        return criterion(predicted, batch["label"], batch["mask"]), {}

    def score(params, frozen, query, candidates):
        items = rows.lookup(params.shared["item"], candidates)
        return inner(items, lookup_users(params, query["user"]))

    return Model(initial, batch_loss, score)


def neural_cf(
    num_items: int,
    dim: int = 32,
    hidden: tuple[int, ...] = (32, 16, 8),
    *,
    num_users: int | None = None,
    init_scale: float | None = 1.0,
    dtype=jnp.float32,
) -> Model:
    """`score(u, i) = MLP([P_u, Q_i])`; the item table `Q` and the MLP are shared.

    Args:
        num_items: `I`.
        dim: `d`, width of user and item vectors.
        hidden: widths of the ReLU layers; a linear layer to one output follows.
        num_users: `None` keeps the user vector personal; a number makes the users a
            shared table too, for clients with several users.
        init_scale: standard deviation of the initial user and item vectors; `None` for
            Xavier's `sqrt(2 / (fan_in + fan_out))` of the layers, and of the item table
            for both kinds of vectors.
        dtype: type of all parameters.

    Returns:
        A model with the shared `item` and `mlp`, and `user`, personal or shared.

    References:
        He et al., Neural Collaborative Filtering, WWW 2017.
    """
    widths = (2 * dim, *hidden, 1)

    def xavier(fan_in, fan_out):
        return (2 / (fan_in + fan_out)) ** 0.5

    def init(key):
        item_key, user_key, *layer_keys = jax.random.split(key, 2 + len(widths) - 1)
        sizes, mlp = pairwise(widths), []
        for layer_key, (fan_in, fan_out) in zip(layer_keys, sizes, strict=True):
            w_key, b_key = jax.random.split(layer_key)
            bound = fan_in**-0.5
            shape = fan_in, fan_out
            if init_scale is None:
                w = xavier(*shape) * jax.random.normal(w_key, shape, dtype)
            else:
                w = jax.random.uniform(w_key, shape, dtype, -bound, bound)
            b = jax.random.uniform(b_key, (fan_out,), dtype, -bound, bound)
            mlp.append({"w": w, "b": b})
        items = draw(item_key, (num_items, dim))
        shared = {"item": rows.Table(values=items), "mlp": mlp}
        return with_users(shared, partial(draw, user_key), num_users, dim)

    def draw(key, shape):
        scale = xavier(num_items, dim) if init_scale is None else init_scale
        return scale * jax.random.normal(key, shape, dtype)

    def hidden_layer(params, user_ids, item_ids):
        items = rows.lookup(params.shared["item"], item_ids)
        users = lookup_users(params, user_ids)
        first, *others, _ = params.shared["mlp"]
        # [P_u, Q_i] W = P_u W_top + Q_i W_bottom: the user's half is computed once.
        x = items @ first["w"][dim:] + (users @ first["w"][:dim] + first["b"])
        for layer in others:
            x = jax.nn.relu(x) @ layer["w"] + layer["b"]
        return jax.nn.relu(x)

    def loss(params, frozen, batch, key, hparams):
        x = hidden_layer(params, batch["user"], batch["item"])
        last = params.shared["mlp"][-1]
        predicted = (x @ last["w"] + last["b"])[..., 0]
        return binary_cross_entropy(predicted, batch["label"], batch["mask"]), {}

    def score(params, frozen, query, candidates):
        x = hidden_layer(params, query["user"], candidates)
        last = params.shared["mlp"][-1]
        return inner(x, last["w"][:, 0]) + last["b"][0]

    return Model(init, loss, score)


def personal_scorer(
    num_items: int, dim: int = 32, init_scale: float = 1.0, dtype=jnp.float32
) -> Model:
    """`score(i) = w . V_i + b`, with `w, b` personal and the item table `V` shared.

    There is no user vector: users differ in their score function.

    Args:
        num_items: `I`.
        dim: `d`.
        init_scale: standard deviation of the initial item rows.
        dtype: type of all parameters.

    Returns:
        A model with the shared table `item` and the personal `scorer`.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023.
    """

    def init(key):
        item_key, w_key, b_key = jax.random.split(key, 3)
        table = init_scale * jax.random.normal(item_key, (num_items, dim), dtype)
        bound = dim**-0.5
        scorer = {
            "w": jax.random.uniform(w_key, (dim,), dtype, -bound, bound),
            "b": jax.random.uniform(b_key, (), dtype, -bound, bound),
        }
        shared = {"item": rows.Table(values=table)}
        return Params(shared=shared, personal={"scorer": scorer})

    def loss(params, frozen, batch, key, hparams):
        scorer = params.personal["scorer"]
        items = rows.lookup(params.shared["item"], batch["item"])
        predicted = items @ scorer["w"] + scorer["b"]
        return binary_cross_entropy(predicted, batch["label"], batch["mask"]), {}

    def score(params, frozen, query, candidates):
        scorer = params.personal["scorer"]
        items = rows.lookup(params.shared["item"], candidates)
        return inner(items, scorer["w"]) + scorer["b"]

    return Model(init, loss, score)
