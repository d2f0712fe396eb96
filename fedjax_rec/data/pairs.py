"""Labelled pairs for one round of local training, drawn from a client's examples."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_rec.core.arrays import Array
from fedjax_rec.data.negatives import draw_negatives

Columns = dict[str, Array]


def implicit_pairs(
    num_items: int, negatives: int
) -> Callable[[Columns, Array], Columns]:
    """Pairs each positive (label 1) with sampled negatives (label 0).

    Args:
        num_items: `I`.
        negatives: Negatives per positive, distinct among themselves.

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


def text_pairs(
    num_items: int, negatives: int, *, history: int = 0, log_q: bool = False
) -> Callable[[Columns, Array], Columns]:
    """`implicit_pairs` with further columns for models that read texts.

    Args:
        num_items: `I`.
        negatives: Negatives per positive.
        history: `L`; 0 for none.
        log_q: Whether to add the sampling probabilities.

    Returns:
        `(examples, key) -> pairs` with further columns: `text` `[P]`, item ids (with
        row tables, `item` becomes a row number); `history` `[P, L]`, the user's items
        before the positive, the latest first, padded with `I`; `log_q` `[P]`, the log
        of the expected frequency of a negative in the sample.
    """
    plain = implicit_pairs(num_items, negatives)

    def draw(examples: Columns, key: Array) -> Columns:
        pairs = plain(examples, key)
        pairs["text"] = pairs["item"]
        m = examples["mask"].shape[0]

        def spread(column: Array) -> Array:
            return jnp.repeat(column, 1 + negatives, axis=0)

        if history:
            before = jnp.arange(m)[:, None] - 1 - jnp.arange(history)
            user = examples["user"]
            same = (before >= 0) & (user[before] == user[:, None])
            pairs["history"] = spread(
                jnp.where(same, examples["item"][before], num_items)
            )
        if log_q:
            pool = examples.get("pool")
            room = num_items if pool is None else pool.shape[0]
            room = jnp.broadcast_to(room - examples["exclude_size"], (m,))
            expected = jnp.minimum(negatives / jnp.maximum(room, 1), 1.0)
            pairs["log_q"] = spread(jnp.log(expected))
        return pairs

    return draw


def explicit_pairs() -> Callable[[Columns, Array], Columns]:
    """Labels each example with its rating, without negatives."""

    def draw(examples: Columns, key: Array) -> Columns:
        columns = {name: examples[name] for name in ("item", "user", "mask")}
        return {**columns, "label": examples["rating"]}

    return draw
