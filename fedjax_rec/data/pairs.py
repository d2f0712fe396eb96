"""What a client trains on in a round: labelled pairs drawn from its examples."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_rec.data.negatives import draw_negatives
from fedjax_rec.types import Array

Columns = dict[str, Array]


def implicit_pairs(
    num_items: int, negatives: int
) -> Callable[[Columns, Array], Columns]:
    """Each positive (label 1), followed by its sampled negatives (label 0).

    Args:
        num_items: `I`.
        negatives: negatives a positive, distinct among themselves.

    Returns:
        `(examples, key) -> pairs` with columns `item`, `user`, `label`, `mask`, each
        `[M * (1 + negatives)]`; real pairs come first.
    """

    def draw(examples: Columns, key: Array) -> Columns:
        items, real = draw_negatives(key, examples, num_items, negatives)
        item = jnp.concatenate([examples["item"][:, None], items], axis=1)
        mask = jnp.concatenate([examples["mask"][:, None], real], axis=1)
        label = jnp.zeros(item.shape, examples["rating"].dtype).at[:, 0].set(1)
        user = jnp.broadcast_to(examples["user"][:, None], item.shape)
        columns = {"item": item, "user": user, "label": label, "mask": mask}
        return {name: column.reshape(-1) for name, column in columns.items()}

    return draw


def explicit_pairs() -> Callable[[Columns, Array], Columns]:
    """Each example with its rating as the label; no negatives, order kept."""

    def draw(examples: Columns, key: Array) -> Columns:
        del key
        return {
            "item": examples["item"],
            "user": examples["user"],
            "label": examples["rating"],
            "mask": examples["mask"],
        }

    return draw
