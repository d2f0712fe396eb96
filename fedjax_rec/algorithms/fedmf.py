"""FedMF: federated matrix factorization (Chai et al. 2021)."""

from __future__ import annotations

import dataclasses
from typing import Literal

from etils import epy

from fedjax_rec.algorithms import implicit
from fedjax_rec.core.checks import check_settings, check_unread
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import optax

    from fedjax_rec.aggregators import means
    from fedjax_rec.core import contracts, rows
    from fedjax_rec.data import pairs
    from fedjax_rec.models import by_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedMF(implicit.OnPairs):
    """The user vector stays on the client, item gradients go to the server.

    With `feedback="explicit"` the server subtracts the sum of the clients' gradients of
    the squared error. By default clients compute them as the authors' released code
    does: in one pass over the ratings in time order, in which the user vector moves
    after each rating. `gradients="simultaneous"` are the equations of the paper.
    `feedback="implicit"` is the system that later work compares with under this name:
    binary cross-entropy with sampled negatives in minibatches, and a server that
    averages item tables.

    Attributes:
        feedback: `implicit`, items with interactions against drawn ones, or `explicit`,
            the ratings, with a small `client_lr`, such as .001 on MovieLens-100K.
        gradients: `sequential`, with the term of `item_l2` once for each rating, or
            `simultaneous`: all at the parameters that the client received, with each
            vector's term once a round, that of items on the server (explicit).
        dim: width of user and item vectors.
        client_lr: learning rate of the user vector.
        item_lr_scale: factor in the items' rate, `client_lr * item_lr_scale`
            (explicit) or `client_lr * num_items * item_lr_scale` (implicit; the mean
            over clients divides it again).
        user_l2: weight of `|p_u|^2` (explicit).
        item_l2: weight of `|q_i|^2` (explicit).
        batch_size: pairs of a step (implicit).
        local_epochs: passes over the pairs in a round (implicit).
        negatives: negatives per positive (implicit).
        init: initial values, `normal` or `constant`.
        init_scale: deviation of normal initial values, or the constant.

    References:
        Chai et al., Secure Federated Matrix Factorization, IEEE Intelligent Systems
        2021. The encryption changes no result beyond rounding, and is left out.
    """

    feedback: Literal["implicit", "explicit"] = "implicit"
    gradients: Literal["sequential", "simultaneous"] = "sequential"
    user_l2: float = 1e-4
    item_l2: float = 1e-4
    init: Literal["normal", "constant"] = "normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self)
        if self.feedback == "explicit":
            unread = ("batch_size", "local_epochs", "negatives")
        else:
            unread = ("user_l2", "item_l2")
        check_unread(self, f"feedback={self.feedback!r}", *unread)

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""
        n, explicit = context.num_items, self.feedback == "explicit"
        model = by_id.matrix_factorization(
            n,
            self.dim,
            init=self.init,
            init_scale=self.init_scale,
            loss="mse" if explicit else "bce",
            dtype=context.dtype,
        )
        l2 = {"user_l2": self.user_l2, "item_l2": self.item_l2}
        if not explicit:
            phases = implicit.sgd_on("user"), implicit.rows_only(n)
            recipe = implicit.implicit_recipe(self, model, phases, n)
            return recipe._replace(hparams={**recipe.hparams, **l2})
        together = self.gradients == "simultaneous"

        def server(h):
            decay = 2 * h["client_lr"] * h["item_lr_scale"] * h["item_l2"]
            return optax.chain(optax.add_decayed_weights(decay), optax.sgd(1.0))

        return contracts.Recipe(
            model=model,
            client_update=simultaneous if together else rating_by_rating(),
            aggregator=means.total(),
            server_optimizer=server if together else lambda h: optax.sgd(1.0),
            hparams={
                "client_lr": self.client_lr,
                "item_lr_scale": self.item_lr_scale,
                **l2,
            },
            local=contracts.Local(
                draw=pairs.explicit_pairs(),
                predicts_ratings=True,
                epochs=self.local_epochs,
                batch_size=self.batch_size,
                # One for each rating, or one in all.
                steps=lambda n: jnp.minimum(n, 1) if together else n,
                rate=lambda h: h["client_lr"],
                row_rate=lambda h: h["client_lr"] * h["item_lr_scale"],
            ),
        )


def rating_by_rating() -> contracts.ClientUpdate:
    """The released code: a client passes over its ratings in their order.

    For each rating `r` of item `i`, with `e = r - p.q_i`:
    `p <- p - lr (-2 e q_i + 2 user_l2 p)`, then, with the new `p` and the old `e`, the
    gradient `-2 e p + 2 item_l2 q_i` of the item.
    """

    def update(params, frozen, examples, hparams, key) -> contracts.ClientResult:
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
        return contracts.ClientResult(
            delta={"item": rows.Rows(ids=ids, values=steps)},
            personal={"user": user},
            weight=weight,
            metrics={"loss": squares.sum() / jnp.maximum(weight, 1)},
        )

    return update


def simultaneous(params, frozen, examples, hparams, key) -> contracts.ClientResult:
    """The paper's equations: one step on all gradients of the received parameters.

    With `e_i = r_i - p.q_i`: `p <- p - lr (-2 sum_i e_i q_i + 2 user_l2 p)`, and the
    gradient `-2 e_i p` of item `i`.
    """
    del frozen, key
    lr, ids, mask = hparams["client_lr"], examples["item"], examples["mask"]
    q = rows.gather(params.shared, {"item": ids})["item"].values
    q = jnp.where(mask[:, None], q, 0)
    p = params.personal["user"]
    e = jnp.where(mask, examples["rating"].astype(q.dtype) - q @ p, 0)
    user = p - lr * (-2 * e @ q + 2 * hparams["user_l2"] * p)
    weight = mask.sum().astype(p.dtype)
    steps = lr * hparams["item_lr_scale"] * 2 * jnp.outer(e, p)
    return contracts.ClientResult(
        delta={"item": rows.Rows(ids=ids, values=steps)},
        personal={"user": user},
        weight=weight,
        metrics={"loss": jnp.square(e).sum() / jnp.maximum(weight, 1)},
    )
