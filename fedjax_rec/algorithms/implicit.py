"""Systems for implicit feedback with an item table: recipe, FedNCF and PFedRec."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

from etils import epy

from fedjax_rec.core.checks import check_settings
from fedjax_rec.core.context import Context
from fedjax_rec.core.optimizers import Adam, check_numbers, hparams_of, with_hparams

with epy.lazy_imports():
    import optax

    from fedjax_rec.aggregators import groups, means
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
class FedNCF:
    """The user vector stays on the client; the item table and the MLP are averaged.

    The defaults are the paper's: an item's vector is averaged over the clients that
    updated it, the network over all clients by their examples (MF-FedAvg), after two
    local epochs of Adam, which starts anew each round. Of the paper's three models this
    is the MLP.

    Later papers compare with a baseline of this name that takes the plain mean of all
    parts after plain SGD. It is `averaging="plain"` with `client_optimizer=SGD(...)`
    and a large `item_lr_scale`.

    Attributes:
        dim: width of user and item vectors.
        hidden: widths of the MLP's ReLU layers.
        client_optimizer: optimizer of the local steps.
        item_lr_scale: plain SGD moves items by `client_optimizer.lr * item_lr_scale`;
            with `averaging="plain"` also times `num_items`, since the mean over all
            clients divides the step of an item that few of them hold.
        averaging: `per_item`, or `plain` for the uniform mean over all clients. An
            aggregation rule of the experiment replaces it.
        batch_size: pairs of a step.
        local_epochs: passes over the pairs in a round.
        negatives: negatives per positive.
        init_scale: standard deviation of the initial user and item vectors; `None` for
            Xavier's initial values, of all weights.

    References:
        Perifanis and Efraimidis, Federated Neural Collaborative Filtering,
        Knowledge-Based Systems 2022. Glorot and Bengio, Understanding the Difficulty of
        Training Deep Feedforward Neural Networks, AISTATS 2010 (Xavier).
    """

    dim: int = 12
    hidden: tuple[int, ...] = (48, 24, 12, 6)
    client_optimizer: Any = Adam(lr=1e-3)
    item_lr_scale: float = 1.0
    averaging: Literal["per_item", "plain"] = "per_item"
    batch_size: int = 256
    local_epochs: int = 2
    negatives: int = 4
    init_scale: float | None = None

    def __post_init__(self) -> None:
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden must be widths of at least 1, got {self.hidden}")
        check_settings(self)
        check_numbers(self, ("dim", "batch_size", "local_epochs", "negatives"))
        if self.item_lr_scale != 1 and self.client_optimizer.momentum != 0:
            raise ValueError(
                f"item_lr_scale={self.item_lr_scale} is a factor of plain SGD: "
                "expected client_optimizer=SGD(...), or item_lr_scale=1"
            )

    def build(self, context: Context) -> contracts.Recipe:
        """The recipe for a catalog."""
        n, optimizer = context.num_items, self.client_optimizer
        options = {"init_scale": self.init_scale, "dtype": context.dtype}
        model = by_id.neural_cf(n, self.dim, self.hidden, **options)
        plain = optimizer.momentum == 0
        aggregator, dilution = means.weighted_mean(uniform=True), n
        if self.averaging == "per_item":
            items = means.per_row_mean(uniform=True)
            aggregator = groups.by_group(("item",), items, means.weighted_mean())
            dilution = 1

        def row_rate(h):
            return h["client_optimizer.lr"] * dilution * h["item_lr_scale"]

        joint = local.Phase(
            lambda h: with_hparams(optimizer, "client_optimizer", h),
            row_rate=row_rate if plain else None,
        )
        recipe = on_pairs(self, model, (joint,), n)
        steps = recipe.local.steps if optimizer.momentum is not None else None
        return recipe._replace(
            aggregator=aggregator,
            hparams={
                **hparams_of(optimizer, "client_optimizer"),
                "item_lr_scale": self.item_lr_scale,
            },
            local=recipe.local._replace(
                steps=steps,
                momentum=optimizer.momentum or 0.0,
                rate=lambda h: h["client_optimizer.lr"],
                row_rate=row_rate if plain else None,
                corrections=plain,
                optimizer_states=optimizer.states,
            ),
        )


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
