"""Systems for implicit feedback with an item table: recipe, FedNCF and PFedRec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from etils import epy

from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import check_numbers

with epy.lazy_imports():
    import optax

    from fedjax_rec.aggregators import means
    from fedjax_rec.clients import local
    from fedjax_rec.core import contracts
    from fedjax_rec.data import pairs
    from fedjax_rec.models import by_id


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnPairs:
    """Settings of local SGD on positive and sampled pairs, with an item table.

    Attributes:
        dim: width of user and item vectors.
        client_lr: learning rate of all but the item table.
        item_lr_scale: factor in the items' rate.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
        init_scale: standard deviation of the initial vectors.
    """

    dim: int = 32
    client_lr: float = 0.1
    item_lr_scale: float = 1.0
    batch_size: int = 256
    local_epochs: int = 1
    negatives: int = 4
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        check_numbers(self, ("dim", "batch_size", "local_epochs", "negatives"))


def row_rate(num_items: int) -> Callable[[dict[str, Any]], Any]:
    """The items' rate `client_lr * num_items * item_lr_scale`.

    It is this large because the mean over clients divides it by their number again.
    """
    return lambda h: h["client_lr"] * num_items * h["item_lr_scale"]


def rows_only(num_items: int) -> local.Phase:
    """A step on the item rows of a batch."""
    return local.Phase(
        lambda h: optax.identity(), names=("item",), row_rate=row_rate(num_items)
    )


def sgd_on(name: str) -> local.Phase:
    """A step of SGD on one group."""
    return local.Phase(lambda h: optax.sgd(h["client_lr"]), names=(name,))


def implicit_recipe(
    settings: Any,
    model: contracts.Model,
    phases: tuple[local.Phase, ...],
    num_items: int,
) -> contracts.Recipe:
    """Local SGD on sampled pairs, and the uniform mean of item tables.

    Args:
        settings: has `client_lr`, `item_lr_scale`, `batch_size`, `local_epochs` and
            `negatives`.
        model: the recommender.
        phases: steps on every batch.
        num_items: `I`.
    """
    recipe = on_pairs(settings, model, phases, num_items)
    return recipe._replace(
        hparams={
            "client_lr": settings.client_lr,
            "item_lr_scale": settings.item_lr_scale,
        },
        local=recipe.local._replace(
            rate=lambda h: h["client_lr"],
            row_rate=row_rate(num_items),
            corrections=True,
        ),
    )


def on_pairs(
    settings: Any,
    model: contracts.Model,
    phases: tuple[local.Phase, ...],
    num_items: int,
) -> contracts.Recipe:
    """The part of `implicit_recipe` that depends on no learning rate."""
    draw = pairs.implicit_pairs(num_items, settings.negatives)
    batch_size, epochs = settings.batch_size, settings.local_epochs
    return contracts.Recipe(
        model=model,
        client_update=local.local_update(
            model, draw, phases, batch_size=batch_size, epochs=epochs
        ),
        aggregator=means.weighted_mean(uniform=True),
        server_optimizer=lambda h: optax.sgd(1.0),
        hparams={},
        local=contracts.Local(
            draw=draw,
            negatives=settings.negatives,
            epochs=epochs,
            batch_size=batch_size,
            steps=local.local_steps(batch_size, epochs, 1 + settings.negatives),
        ),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FedNCF(OnPairs):
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

    hidden: tuple[int, ...] = (32, 16, 8)

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        super().__post_init__()

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""
        n = context.num_items
        options = {"init_scale": self.init_scale, "dtype": context.dtype}
        model = by_id.neural_cf(n, self.dim, self.hidden, **options)
        joint = local.Phase(lambda h: optax.sgd(h["client_lr"]), row_rate=row_rate(n))
        return implicit_recipe(self, model, (joint,), n)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PFedRec(OnPairs):
    """A personal score function; item rows are fine-tuned on the client and averaged.

    Every batch takes one SGD step on the scorer, then one on the items it holds. The
    server takes the unweighted mean of the item tables; the scorer stays on the client.

    Attributes:
        dim: width of an item row.
        client_lr: learning rate of the scorer.
        item_lr_scale: factor in the items' rate `client_lr * num_items *
            item_lr_scale`, which the mean over clients divides again.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
        init_scale: standard deviation of the initial item rows.

    References:
        Zhang et al., Dual Personalization on Federated Recommendation, IJCAI 2023,
        algorithm 1.
    """

    item_lr_scale: float = 80.0
    init_scale: float = 1.0

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""
        n = context.num_items
        model = by_id.personal_scorer(n, self.dim, self.init_scale, context.dtype)
        model = model._replace(common_start=True)
        return implicit_recipe(self, model, (sgd_on("scorer"), rows_only(n)), n)
