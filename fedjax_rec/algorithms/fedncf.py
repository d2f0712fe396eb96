"""FedNCF: federated neural collaborative filtering (Perifanis and Efraimidis 2022)."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import optax

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.pairs import implicit_pairs
from fedjax_rec.models.neural_cf import neural_cf


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedNCF:
    """The user vector stays on the client; the item table and the MLP are averaged.

    Attributes:
        dim: width of user and item vectors.
        hidden: widths of the MLP's ReLU layers.
        client_lr: learning rate of the user vector and the MLP.
        item_lr_scale: the items' rate is `client_lr * num_items * item_lr_scale`,
            since the mean over clients divides it again.
        batch_size: pairs a step.
        local_epochs: passes over the pairs a round.
        negatives: negatives a positive.
        init_scale: standard deviation of the initial user and item vectors.
        weighting: clients weigh the same, or by their `examples` (FedAvg).

    References:
        Perifanis and Efraimidis, Federated Neural Collaborative Filtering,
        Knowledge-Based Systems 2022.
    """

    dim: int = 32
    hidden: tuple[int, ...] = (32, 16, 8)
    client_lr: float = 0.1
    item_lr_scale: float = 1.0
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4
    init_scale: float = 0.1
    weighting: Literal["uniform", "examples"] = "uniform"

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")

    def build(self, *, num_items: int, num_users: int, dtype=jnp.float32) -> Recipe:
        """The recipe for a catalog of `num_items`."""
        del num_users
        model = neural_cf(
            num_items, self.dim, self.hidden, init_scale=self.init_scale, dtype=dtype
        )
        draw = implicit_pairs(num_items, self.negatives)
        joint = Phase(
            lambda h: optax.sgd(h["client_lr"]),
            row_rate=lambda h: h["client_lr"] * num_items * h["item_lr_scale"],
        )
        return Recipe(
            model=model,
            client_update=local_update(
                model,
                draw,
                (joint,),
                batch_size=self.batch_size,
                epochs=self.local_epochs,
            ),
            aggregator=weighted_mean(uniform=self.weighting == "uniform"),
            server_optimizer=lambda h: optax.sgd(1.0),
            hparams={"client_lr": self.client_lr, "item_lr_scale": self.item_lr_scale},
            draw=draw,
            negatives=self.negatives,
        )
