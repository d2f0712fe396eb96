"""FedNCF: federated neural collaborative filtering (Perifanis and Efraimidis 2022)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    import optax

    from fedjax_rec.algorithms import implicit
    from fedjax_rec.clients import local
    from fedjax_rec.models import neural_cf

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedNCF:
    """The user vector stays on the client; the item table and the MLP are averaged.

    By default clients have equal weights in the mean; `Mean(weights="examples")` as the
    aggregation rule weighs them by their examples.

    Attributes:
        dim: width of user and item vectors.
        hidden: widths of the MLP's ReLU layers.
        client_lr: learning rate of the user vector and the MLP.
        item_lr_scale: factor in the items' rate `client_lr * num_items *
            item_lr_scale`, which the mean over clients divides again.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
        init_scale: standard deviation of the initial user and item vectors.

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

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        check_numbers(self, ("dim", "batch_size", "local_epochs", "negatives"))

    def build(self, context: Context) -> Recipe:
        """The recipe for a catalog."""
        n = context.num_items
        model = neural_cf.neural_cf(
            n,
            self.dim,
            self.hidden,
            init_scale=self.init_scale,
            dtype=context.dtype,
        )
        joint = local.Phase(
            lambda h: optax.sgd(h["client_lr"]), row_rate=implicit.row_rate(n)
        )
        return implicit.implicit_recipe(self, model, (joint,), n)
