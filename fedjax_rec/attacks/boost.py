"""Boosting one item: its row is pushed where rows of liked items go."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from fedjax_rec.attacks.members import Attack, sent_by
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.contracts import ClientResult
from fedjax_rec.core.rows import is_rows

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
        toward: `own(...)` or `popular(...)`, or a function of yours.
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

    It knows which items are popular and nothing else, not even which of them it drew
    as negatives: those point the other way, so that it takes attackers that like what
    most like. Where the client touched none of them the boosted row is zero.

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


def own(*path: str) -> Direction:
    """The client's own vector, with which its scores are products.

    Training moves the rows of liked items along it. Attackers with vectors like other
    users' so move the row to where most users' scores rise.

    Args:
        *path: of the vector `[d]` among the personal parameters, such as
            `"scorer", "w"` of PFedRec.
    """

    def direction(result: ClientResult) -> Array:
        found = result.personal
        for name in path:
            if name not in found:
                raise ValueError(
                    f"no personal parameters {'.'.join(path)}; there are {list(found)}"
                )
            found = found[name]
        return found

    return direction
