"""An attack as a message transform."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core import attackers, messages, rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.context import Context
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.core.keys import Purpose

Falsify = Callable[[Tree, messages.Sender, Array], Tree]
"""`(delta, sender, key)` to a false delta of the same structure."""


def attacked(context: Context, settings: Any, falsify: Falsify) -> Recipe:
    """The recipe of `context` with an attack before its message transform.

    Args:
        context: facts about the experiment.
        settings: their `share` and `seed` determine the attackers.
        falsify: the false delta of an attacker; its other results are honest.
    """
    recipe = context.recipe
    assert recipe is not None
    members = attackers.attackers(context.num_clients, settings.share, settings.seed)

    def encode(message: Tree, state: Tree, sender: messages.Sender):
        # A false delta may hold its rows in another order.
        leaves, structure = jax.tree.flatten(message, is_leaf=rows.is_rows)
        message = structure.unflatten(
            dataclasses.replace(x, ordered=False) if rows.is_rows(x) else x
            for x in leaves
        )
        key = jax.random.fold_in(sender.key, int(Purpose.ATTACK))
        false = falsify(message, sender, key)
        bad = members.at[sender.id].get(mode="fill", fill_value=False)
        bad = bad & (sender.id >= 0)
        return jax.tree.map(lambda x, y: jnp.where(bad, y, x), message, false), state

    attack = messages.MessageTransform(
        lambda message: (), encode, counted=False, purpose=Purpose.ATTACK
    )
    if recipe.transform is not None:
        attack = messages.chain(attack, recipe.transform)
    return recipe._replace(transform=attack)
