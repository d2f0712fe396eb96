"""Boosting one item: its row is pushed where rows of liked items go."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from fedjax_rec.attacks.members import Attack, sent_by
from fedjax_rec.rows import is_rows
from fedjax_rec.types import Array, ClientResult

Direction = Callable[[ClientResult], Array]
"""`(result) -> [d]`: where an attacker wants the item's row to go."""


def boost(
    members: Array,
    item: int,
    *,
    num_items: int,
    toward: Direction,
    scale: float = 1.0,
    table: str = "item",
) -> Attack:
    """Members push the row of one item, so that many users' scores for it rise.

    The item's row of the delta becomes `scale` times the norm of the attacker's largest
    row, in the direction that `toward` gives. All other rows stay honest: they are what
    makes the client look like others. The row takes the place of the item's own, else
    of padding, else of the attacker's smallest row.

    Unlike PipAttack and FedRecAttack, it needs neither the server's table nor public
    interactions, only what a client has at hand when it sends.

    Args:
        members: `[N]` bool, who attacks.
        item: the item to be boosted.
        num_items: `I`, to tell rows from padding.
        toward: `popular(...)`, or a function that reads what the client itself holds,
            such as its own vector.
        scale: 1 is as long as the client's largest honest row.
        table: name of the items' table among the shared parameters.

    Returns:
        A `Recipe.attack`.

    Raises:
        ValueError: `item` is no item; or, while the round is traced, `table` is not the
            name of a table.

    References:
        Zhang et al., PipAttack: Poisoning Federated Recommender Systems for
        Manipulating Item Promotion, WSDM 2022. Rong et al., FedRecAttack, ICDE 2022.
    """
    if not 0 <= item < num_items:
        raise ValueError(f"item must be in [0, {num_items}), got {item}")

    def falsify(result, key):
        del key
        sent = result.delta.get(table)
        if not is_rows(sent):
            names = [name for name, leaf in result.delta.items() if is_rows(leaf)]
            raise ValueError(
                f"boost needs a table of item rows, and {table!r} is none; tables of "
                f"this model: {names}"
            )
        real = sent.ids < num_items
        norms = jnp.sqrt(jnp.square(sent.values).sum(-1))
        longest = jnp.where(real, norms, 0).max()
        way = toward(result)
        size = jnp.sqrt(jnp.square(way).sum())
        row = scale * longest * way / jnp.where(size > 0, size, 1)
        price = jnp.where(sent.ids == item, -2, jnp.where(real, norms, -1))
        at = price.argmin()
        false = dataclasses.replace(
            sent,
            ids=sent.ids.at[at].set(item),
            values=sent.values.at[at].set(row.astype(sent.values.dtype)),
        )
        return {**result.delta, table: false}

    return sent_by(members, falsify)


def popular(items: Sequence[int] | Array, *, table: str = "item") -> Direction:
    """The sum of the client's own rows of popular items, which most users like.

    It knows which items are popular and nothing else. Where the client touched none of
    them the boosted row is zero.

    Args:
        items: ids of popular items.
        table: name of the items' table.
    """
    liked = jnp.asarray(items, jnp.int32)

    def direction(result: ClientResult) -> Array:
        sent = result.delta[table]
        # The padding id is no item's, so what padding rows hold is left out.
        mine = (sent.ids[:, None] == liked[None]).any(1)
        return jnp.where(mine[:, None], sent.values, 0).sum(0)

    return direction
