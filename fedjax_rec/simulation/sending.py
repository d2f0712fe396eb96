"""What leaves a client: its delta, maybe falsified, in a message of counted bits."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.codecs import memory
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows, trees
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import ClientResult, Recipe
from fedjax_rec.core.keys import Purpose

CODEC, PROFILE = "codec", "profile"
"""Where a client's personal parameters keep the state of its codec, and its profile."""


class Sent(NamedTuple):
    """What the server reads of a client.

    Attributes:
        result: with the delta as it was decoded.
        state: of the client's codec.
        told: scalars whose sums over the clients are metrics of the round.
    """

    result: ClientResult
    state: Tree
    told: dict[str, Array]


def initial_state(recipe: Recipe, shared: Tree) -> dict[str, Tree]:
    """What a client's personal parameters hold beside the model's."""
    state: Tree = ()
    if recipe.codec is not None:  # the same in every round, so any key will do
        state = recipe.codec(jax.random.key(0)).init(_sent(recipe, shared))
    return {CODEC: state} if jax.tree.leaves(state) else {}


def own(personal: dict[str, Tree]) -> dict[str, Tree]:
    """The model's part of a client's personal parameters."""
    return {n: part for n, part in personal.items() if n not in (CODEC, PROFILE)}


def leave(
    recipe: Recipe, shared: Tree, result: ClientResult, client: Array, key: Array
) -> ClientResult:
    """One client's result before it is encoded: each row once, maybe falsified.

    Args:
        recipe: its `attack`.
        shared: the parameters the client started from.
        result: of its local training.
        client: scalar id.
        key: the client's in this round.
    """
    if recipe.codec is not None or recipe.attack is not None:
        result = dataclasses.replace(result, delta=_each_row_once(shared, result.delta))
    if recipe.attack is not None:
        attack_key = jax.random.fold_in(key, int(Purpose.ATTACK))
        result = recipe.attack(_in_any_order(result), client, attack_key)
    return result


def send(
    recipe: Recipe, state: Tree, result: ClientResult, key: Array, round_key: Array
) -> Sent:
    """One client's message, as it arrives.

    Args:
        recipe: its `codec`, not `None`.
        state: of the client's codec, as `memory.take` hands it out.
        result: as `leave` left it.
        key: the client's in this round.
        round_key: of what all its clients draw alike.
    """
    assert recipe.codec is not None
    codec_key = jax.random.fold_in(key, int(Purpose.CODEC))
    codec = recipe.codec(round_key)
    delta = result.delta
    message, new = codec.encode(_sent(recipe, delta), state, codec_key)
    fixed = {name: delta[name] for name in recipe.fixed if name in delta}
    here = result.weight > 0
    sent = jnp.where(here, num_bits(message), 0).astype(result.weight.dtype)
    decoded = dataclasses.replace(result, delta={**codec.decode(message), **fixed})
    return Sent(decoded, trees.where(here, new, state), {"up_bytes": sent / 8})


def send_all(
    recipe: Recipe,
    shared: Tree,
    states: Tree,
    at: Array,
    result: ClientResult,
    clients: Array,
    keys: Array,
    round_key: Array,
) -> Sent:
    """The messages of many clients, whose states are read and written in place.

    Args:
        recipe: its `attack` and its `codec`.
        shared: the parameters they started from.
        states: of the codec, of all clients at hand, leaves `[N, ...]`.
        at: `[V]` int32: where theirs are; past the end where there is none.
        result: of their local training, `[V, ...]`.
        clients: `[V]` ids.
        keys: `[V]`, of each in this round.
        round_key: of what all clients of the round draw alike.
    """
    left = jax.vmap(functools.partial(leave, recipe), (None, 0, 0, 0))
    result = left(shared, result, clients, keys)
    if recipe.codec is None:
        return Sent(result, states, {})
    if not jax.tree.leaves(states):  # as `initial_state` leaves it out
        states = recipe.codec(round_key).init(_sent(recipe, shared))
    before = memory.take(states, at, _sent(recipe, result.delta))
    sent = jax.vmap(functools.partial(send, recipe), (0, 0, 0, None))
    result, after, told = sent(before, result, keys, round_key)
    return Sent(result, memory.put(states, at, after), told)


def _sent(recipe: Recipe, tree: dict[str, Tree]) -> dict[str, Tree]:
    return {name: part for name, part in tree.items() if name not in recipe.fixed}


def _in_any_order(result: ClientResult) -> ClientResult:
    """Whoever falsifies a delta may leave its rows in another order."""

    def forget(leaf):
        return dataclasses.replace(leaf, ordered=False) if rows.is_rows(leaf) else leaf

    delta = jax.tree.map(forget, result.delta, is_leaf=rows.is_rows)
    return dataclasses.replace(result, delta=delta)


def _each_row_once(shared: Tree, delta: Tree) -> Tree:
    def merge(table, change):
        if not rows.is_table(table):
            return change
        return rows.merge_repeats(change, table.values.shape[0])

    return jax.tree.map(merge, shared, delta, is_leaf=rows.is_table)
