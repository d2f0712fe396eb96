"""The recipe that systems for implicit feedback with an item table have in common."""

from collections.abc import Callable
from typing import Any

import optax

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.clients.local import Phase, local_update
from fedjax_rec.clients.steps import local_steps
from fedjax_rec.core.contracts import Local, Model, Recipe
from fedjax_rec.data.pairs import implicit_pairs


def row_rate(num_items: int) -> Callable[[dict[str, Any]], Any]:
    """The items' rate `client_lr * num_items * item_lr_scale`.

    It is this large because the mean over clients divides it by their number again.
    """
    return lambda h: h["client_lr"] * num_items * h["item_lr_scale"]


def rows_only(num_items: int) -> Phase:
    """A step on the item rows of a batch."""
    return Phase(
        lambda h: optax.identity(), names=("item",), row_rate=row_rate(num_items)
    )


def sgd_on(name: str) -> Phase:
    """A step of SGD on one group."""
    return Phase(lambda h: optax.sgd(h["client_lr"]), names=(name,))


def implicit_recipe(
    settings: Any, model: Model, phases: tuple[Phase, ...], num_items: int
) -> Recipe:
    """Local SGD on sampled pairs, and the uniform mean of item tables.

    Args:
        settings: has `client_lr`, `item_lr_scale`, `batch_size`, `local_epochs` and
            `negatives`.
        model: the recommender.
        phases: steps on every batch.
        num_items: `I`.
    """
    draw = implicit_pairs(num_items, settings.negatives)
    pairs = 1 + settings.negatives
    return Recipe(
        model=model,
        client_update=local_update(
            model,
            draw,
            phases,
            batch_size=settings.batch_size,
            epochs=settings.local_epochs,
        ),
        aggregator=weighted_mean(uniform=True),
        server_optimizer=lambda h: optax.sgd(1.0),
        hparams={
            "client_lr": settings.client_lr,
            "item_lr_scale": settings.item_lr_scale,
        },
        local=Local(
            draw=draw,
            negatives=settings.negatives,
            epochs=settings.local_epochs,
            batch_size=settings.batch_size,
            steps=local_steps(settings.batch_size, settings.local_epochs, pairs),
            rate=lambda h: h["client_lr"],
            row_rate=row_rate(num_items),
            corrections=True,
        ),
    )
