"""FCF: federated collaborative filtering (Ammad-ud-din et al. 2019)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from etils import epy

from fedjax_rec.core.optimizers import (
    FedAdam,
    check_numbers,
    hparams_of,
    with_hparams,
)

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import optax

    from fedjax_rec.aggregators import means
    from fedjax_rec.core import contracts
    from fedjax_rec.models import losses

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.context import Context


@dataclasses.dataclass(frozen=True, kw_only=True)
class FCF:
    """Clients solve for their user vectors, the server descends on the item vectors.

    With `r_ui` interactions of user `u` with item `i`, `p_ui = 1` if there is any and 0
    otherwise, and `c_ui = 1 + alpha r_ui`, the objective is
    `sum_ui c_ui (p_ui - x_u . y_i)^2 + l2 (sum_u |x_u|^2 + sum_i |y_i|^2)`.

    A client sends the gradient of its terms with respect to all item vectors, so that a
    message has the length of the catalog and does not reveal which items it holds.

    Attributes:
        dim: width of user and item vectors.
        alpha: confidence that an interaction adds.
        l2: weight of the squared norms.
        server_optimizer: optimizer of the item vectors; the paper's is Adam.
        init_scale: standard deviation of the initial item vectors.

    References:
        Ammad-ud-din et al., Federated Collaborative Filtering for Privacy-Preserving
        Personalized Recommendation System, arXiv:1901.09888, 2019, algorithm 1. Hu et
        al., Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008.
    """

    dim: int = 32
    alpha: float = 4.0
    l2: float = 1.0
    server_optimizer: Any = FedAdam(lr=0.05)
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, ("dim",))

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""

        def server(h):
            optimizer = with_hparams(self.server_optimizer, "server_optimizer", h)
            return optax.chain(optax.add_decayed_weights(2 * h["l2"]), optimizer)

        return contracts.Recipe(
            model=self._model(context),
            client_update=solve_and_differentiate,
            aggregator=means.total(),
            server_optimizer=server,
            hparams={
                "alpha": self.alpha,
                "l2": self.l2,
                **hparams_of(self.server_optimizer, "server_optimizer"),
            },
            local=contracts.Local(reconstructs=True),
        )

    def _model(self, context: Context) -> contracts.Model:
        """`score(u, i) = x_u . y_i`. Items are no row table: clients send all rows."""
        shape = context.num_items, self.dim

        def init(key):
            items = self.init_scale * jax.random.normal(key, shape, context.dtype)
            user = jnp.zeros(self.dim, context.dtype)
            return contracts.Params(shared={"item": items}, personal={"user": user})

        def score(params, frozen, query, candidates):
            items = params.shared["item"]
            items = items if candidates is None else items[candidates]
            return items @ params.personal["user"]

        def loss(params, frozen, batch, key, hparams):
            predicted = score(params, frozen, batch, batch["item"])
            return losses.squared_error(predicted, batch["label"], batch["mask"]), {}

        return contracts.Model(init, loss, score, common_start=True)


def solve_and_differentiate(
    params, frozen, examples, hparams, key
) -> contracts.ClientResult:
    """One client: `x = (Y' C Y + l2 I)^-1 Y' C p`, and the step `2 c (p - Y x) x'`."""
    del frozen, key
    y, alpha = params.shared["item"], hparams["alpha"]
    items, mask = examples["item"], examples["mask"].astype(y.dtype)
    counts = jnp.zeros(len(y), y.dtype).at[items].add(mask, mode="drop")
    preference, confidence = (counts > 0).astype(y.dtype), 1 + alpha * counts
    # Y' Y is the same on all clients, so that a chunk of them computes it once.
    rated = y.at[items].get(mode="fill", fill_value=0)
    gram = y.T @ y + alpha * (rated.T * mask) @ rated
    eye = jnp.eye(y.shape[1], dtype=y.dtype)
    user = solved(gram + hparams["l2"] * eye, (confidence * preference) @ y)
    error = preference - y @ user
    step = 2 * jnp.outer(confidence * error, user)
    return contracts.ClientResult(
        delta={"item": step},
        personal={"user": user},
        weight=mask.sum(),
        metrics={"loss": (confidence * error**2).mean()},
    )


def solved(matrix: Array, vector: Array) -> Array:
    """`x` with `matrix x = vector`, by Gauss and Jordan's elimination.

    Products of rows, which batch under `vmap`, instead of LAPACK.

    Args:
        matrix: `[d, d]`, symmetric and positive definite, so that no pivot is searched.
        vector: `[d]`.
    """

    def eliminate(j, table):
        row = table[j] / table[j, j]
        return (table - jnp.outer(table[:, j], row)).at[j].set(row)

    table = jnp.concatenate([matrix, vector[:, None]], axis=1)
    return jax.lax.fori_loop(0, len(vector), eliminate, table)[:, -1]
