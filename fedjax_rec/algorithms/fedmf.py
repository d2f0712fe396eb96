"""FedMF: federated matrix factorization (Chai et al. 2021)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from fedjax_rec.aggregators.means import total, weighted_mean
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core import rows
from fedjax_rec.core.contracts import ClientResult, ClientUpdate, Params, Recipe
from fedjax_rec.data.pairs import explicit_pairs, implicit_pairs
from fedjax_rec.models.factorization import matrix_factorization


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedMF:
    """The user vector stays on the client, item gradients go to the server.

    `feedback="explicit"` is the paper: one pass over the ratings in time order, and
    the server subtracts the sum of the clients' gradients. `feedback="implicit"` is
    what later work compares with under this name: binary cross-entropy with sampled
    negatives in minibatches, and a server that averages whole item tables.

    Attributes:
        feedback: see above.
        dim: width of user and item vectors.
        client_lr: learning rate of the user vector.
        item_lr_scale: the items' rate is `client_lr * item_lr_scale` (explicit), or
            `client_lr * num_items * item_lr_scale` (implicit, where the mean over
            clients divides it again).
        user_l2: weight of `|p_u|^2` (explicit).
        item_l2: weight of `|q_i|^2` (explicit).
        batch_size: pairs a step (implicit).
        local_epochs: passes over the pairs a round (implicit).
        negatives: negatives a positive (implicit).
        init: initial values, `normal` or `constant`.
        init_scale: their deviation or value.

    References:
        Chai et al., Secure Federated Matrix Factorization, IEEE Intelligent Systems
        2021. The encryption changes no result beyond rounding, and is left out.
    """

    feedback: Literal["implicit", "explicit"] = "implicit"
    dim: int = 32
    client_lr: float = 0.1
    item_lr_scale: float = 1.0
    user_l2: float = 1e-4
    item_l2: float = 1e-4
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4
    init: Literal["normal", "constant"] = "normal"
    init_scale: float = 0.1

    def build(self, *, num_items: int, num_users: int, dtype=jnp.float32) -> Recipe:
        """The recipe for a catalog of `num_items`."""
        del num_users
        model = matrix_factorization(
            num_items,
            self.dim,
            init=self.init,
            init_scale=self.init_scale,
            loss="mse" if self.feedback == "explicit" else "bce",
            dtype=dtype,
        )
        hparams = {
            "client_lr": self.client_lr,
            "item_lr_scale": self.item_lr_scale,
            "user_l2": self.user_l2,
            "item_l2": self.item_l2,
        }
        if self.feedback == "explicit":
            return Recipe(
                model=model,
                client_update=rating_by_rating(),
                aggregator=total(),
                server_optimizer=lambda h: optax.sgd(1.0),
                hparams=hparams,
                draw=explicit_pairs(),
            )
        draw = implicit_pairs(num_items, self.negatives)
        user = Phase(lambda h: optax.sgd(h["client_lr"]), names=("user",))
        items = Phase(
            lambda h: optax.identity(),
            names=("item",),
            row_rate=lambda h: h["client_lr"] * num_items * h["item_lr_scale"],
        )
        return Recipe(
            model=model,
            client_update=local_update(
                model,
                draw,
                (user, items),
                batch_size=self.batch_size,
                epochs=self.local_epochs,
            ),
            aggregator=weighted_mean(uniform=True),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams=hparams,
            draw=draw,
            negatives=self.negatives,
        )


def rating_by_rating() -> ClientUpdate:
    """Algorithm 1 of the paper: a client's pass over its ratings, in their order.

    For each rating `r` of item `i`, with `e = r - p.q_i`:
    `p <- p - lr (-2 e q_i + 2 user_l2 p)`, then, with the new `p` and the old `e`, the
    gradient `-2 e p + 2 item_l2 q_i` of the item.
    """

    def update(params: Params, frozen, examples, hparams, key) -> ClientResult:
        del frozen, key
        lr, scale = hparams["client_lr"], hparams["item_lr_scale"]
        ids, mask = examples["item"], examples["mask"]
        table = rows.gather(params.shared, {"item": ids})["item"]
        ratings = examples["rating"].astype(table.values.dtype)

        def rate(p, example):
            q, rating, real = example
            e = rating - p @ q
            new = p - lr * (-2 * e * q + 2 * hparams["user_l2"] * p)
            step = -lr * scale * (-2 * e * new + 2 * hparams["item_l2"] * q)
            return jnp.where(real, new, p), (jnp.where(real, step, 0), real * e**2)

        start = params.personal["user"]
        user, (steps, squares) = jax.lax.scan(
            rate, start, (table.values, ratings, mask)
        )
        weight = mask.sum().astype(start.dtype)
        return ClientResult(
            delta={"item": rows.Rows(ids=ids, values=steps)},
            personal={"user": user},
            weight=weight,
            metrics={"loss": squares.sum() / jnp.maximum(weight, 1)},
        )

    return update
