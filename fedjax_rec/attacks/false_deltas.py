"""Attacks as message transforms: noise, the opposite of a delta, or a boosted item."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

from etils import epy

from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp
    import numpy as np

    from fedjax_rec.core import attackers, contracts, keys, messages, rows


def attacked(context: Context, settings: Any, falsify: Callable) -> contracts.Recipe:
    """The recipe of `context` with an attack before its message transform.

    Args:
        context: facts about the experiment.
        settings: their `share` and `seed` determine the attackers.
        falsify: `(delta, sender, key)` to an attacker's false delta, of the same
            structure; its other results are honest.
    """
    recipe = context.recipe
    members = attackers.attackers(context.num_clients, settings.share, settings.seed)

    def encode(message: Any, state: Any, sender: messages.Sender):
        # A false delta may hold its rows in another order.
        leaves, structure = jax.tree.flatten(message, is_leaf=rows.is_rows)
        message = structure.unflatten(
            dataclasses.replace(x, ordered=False) if rows.is_rows(x) else x
            for x in leaves
        )
        key = jax.random.fold_in(sender.key, int(keys.Purpose.ATTACK))
        false = falsify(message, sender, key)
        bad = members.at[sender.id].get(mode="fill", fill_value=False)
        bad = bad & (sender.id >= 0)
        return jax.tree.map(lambda x, y: jnp.where(bad, y, x), message, false), state

    attack = messages.MessageTransform(
        lambda message: (), encode, counted=False, purpose=keys.Purpose.ATTACK
    )
    if recipe.transform is not None:
        attack = messages.chain(attack, recipe.transform)
    return recipe._replace(transform=attack)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attack:
    """An attack by a share of the clients.

    Attributes:
        share: share of the population that attacks.
        scale: size of the attack.
        seed: seed of the attackers.
    """

    share: float = 0.1
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, share="[0, 1]", scale="(0, inf)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignFlip(Attack):
    """Attackers send `-scale` times their delta.

    With a small `scale` it is inner product manipulation (Xie et al., Fall of Empires,
    UAI 2019) by attackers that do not cooperate: each takes its own delta for the
    honest mean. With a large one it is easy to see, and as easy to clip.

    Attributes:
        share: share of the population that attacks.
        scale: length of the false delta relative to the honest one.
        seed: seed of the attackers.

    References:
        Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019.
    """

    def build(self, context: Context) -> contracts.Recipe:
        """Attacks `context.recipe`."""

        def falsify(delta, sender, key):
            return rows.map_values(lambda x: -self.scale * x, delta)

        return attacked(context, self, falsify)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Attackers send Gaussian noise, on the rows that they touched.

    Its standard deviation is `scale` times the root mean square of the leaf's delta.

    Attributes:
        share: share of the population that attacks.
        scale: size of the noise relative to the honest delta.
        seed: seed of the attackers.

    References:
        Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant
        Gradient Descent, NIPS 2017, section 5.
    """

    def build(self, context: Context) -> contracts.Recipe:
        """Attacks `context.recipe`."""

        def draw(x, real, key):
            square = jnp.where(real, jnp.square(x), 0).sum()
            size = jnp.sqrt(square / jnp.maximum(real.sum(), 1).astype(x.dtype))
            return self.scale * size * jax.random.normal(key, x.shape, x.dtype)

        def leaf(delta, key):
            if not rows.is_rows(delta):
                return draw(delta, jnp.ones(delta.shape, bool), key)
            real = delta.ids < delta.num_rows
            real = real.reshape(-1, *[1] * (delta.values.ndim - 1))
            real = jnp.broadcast_to(real, delta.values.shape)
            return dataclasses.replace(delta, values=draw(delta.values, real, key))

        def falsify(delta, sender, key):
            leaves, structure = jax.tree.flatten(delta, is_leaf=rows.is_rows)
            leaf_keys = jax.random.split(key, len(leaves))
            return structure.unflatten(map(leaf, leaves, leaf_keys))

        return attacked(context, self, falsify)


Toward = Literal["own", "popular"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Boost(Attack):
    """Attackers push the row of one item, so that many users' scores for it rise.

    The item's row of the delta gets `scale` times the norm of the attacker's largest
    row. All other rows stay honest, which makes the client look like others. The row
    takes the place of the item's own, else of padding, else of the attacker's smallest
    row.

    Unlike PipAttack and FedRecAttack, it needs neither the server's table nor public
    interactions, only the data that a client has when it sends. With `popular` a client
    does not know which of these items it drew as negatives, with rows in the opposite
    direction, so it takes attackers that like popular items; the row is zero if the
    client touched none of them.

    Attributes:
        share: share of the population that attacks.
        scale: length of the row relative to the client's largest honest row.
        seed: seed of the attackers.
        item: id of the item; -1 is the one with the fewest training interactions.
        toward: `own`: along the client's personal vector, as training moves rows of
            liked items; `popular`: along the sum of its rows of popular items.
        popular: number of popular items.
        table: name of the item table among the shared parameters.

    References:
        Zhang et al., PipAttack: Poisoning Federated Recommender Systems for
        Manipulating Item Promotion, WSDM 2022. Rong et al., FedRecAttack, ICDE 2022.
    """

    item: int = -1
    toward: Toward = "own"
    popular: int = 50
    table: str = "item"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, item="[-1, inf)", popular="[1, inf)")

    def build(self, context: Context) -> contracts.Recipe:
        """Attacks `context.recipe`; its notes get the `exposed_item`.

        Raises:
            ValueError: there is no such item, or no personal vector as wide as a row of
                the item table for `toward="own"`.
        """
        num_items = context.num_items
        counts = np.bincount(context.split.train.item, minlength=num_items)
        item = int(counts.argmin()) if self.item < 0 else self.item
        if item >= num_items:
            raise ValueError(f"item={item}, expected an item in [0, {num_items})")
        by_popularity = np.argsort(-counts, kind="stable")
        liked = jnp.asarray(by_popularity[: self.popular], jnp.int32)
        path = _own_vector(context, self.table) if self.toward == "own" else ()

        def direction(sent: rows.Rows, sender: messages.Sender) -> jax.Array:
            if self.toward == "own":
                return functools.reduce(lambda tree, x: tree[x], path, sender.personal)
            # Padding ids are no items, so padding rows are left out.
            chosen = (sent.ids[:, None] == liked[None]).any(1)
            return jnp.where(chosen[:, None], sent.values, 0).sum(0)

        def falsify(delta: dict[str, Any], sender: messages.Sender, key: jax.Array):
            sent = _item_table(delta, self.table, rows.is_rows)
            real = sent.ids < num_items
            norms = jnp.sqrt(jnp.square(sent.values).sum(-1))
            longest = jnp.where(real, norms, 0).max()
            way = direction(sent, sender)
            size = jnp.sqrt(jnp.square(way).sum())
            row = self.scale * longest * way / jnp.where(size > 0, size, 1)
            price = jnp.where(sent.ids == item, -2, jnp.where(real, norms, -1))
            position = price.argmin()
            ids = sent.ids.at[position].set(item)
            values = sent.values.at[position].set(row.astype(sent.values.dtype))
            false = dataclasses.replace(sent, ids=ids, values=values)
            return {**delta, self.table: false}

        recipe = attacked(context, self, falsify)
        return recipe._replace(notes={**recipe.notes, "exposed_item": item})


def _item_table(tree: dict[str, Any], name: str, is_table: Any) -> Any:
    """The table of this name, or its rows in a delta."""
    if not is_table(tree.get(name)):
        tables = [other for other, leaf in tree.items() if is_table(leaf)]
        raise ValueError(
            f"Boost pushes a row of an item table, and {name!r} is none; tables of "
            f"this model: {tables}"
        )
    return tree[name]


def _own_vector(context: Context, table: str) -> tuple[str, ...]:
    """Path of the first personal vector as wide as a row of the item table."""
    start = jax.eval_shape(context.recipe.model.init, jax.random.key(0))
    width = _item_table(start.shared, table, rows.is_table).values.shape[1:]
    for path, leaf in jax.tree_util.tree_leaves_with_path(start.personal):
        if leaf.shape == width:
            return tuple(entry.key for entry in path)
    raise ValueError(
        "Boost with toward='own' pushes along a client's personal vector, and this "
        f"model has none of the shape {width} of an item's row: use toward='popular'"
    )
