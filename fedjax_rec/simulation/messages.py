"""Messages of a round: transformed on the clients, counted, and decoded again."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedjax_rec.codecs import memory
from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import NUMBER_BYTES, ClientResult, Model, Recipe
from fedjax_rec.core.messages import MessageTransform, Sender, key_of
from fedjax_rec.simulation import guard

TRANSFORM = "transform"
"""Name under which a client's personal parameters keep the state of its transform."""


class Decoded(NamedTuple):
    """Messages as the server reads them.

    Attributes:
        result: outcomes of local training, with decoded deltas.
        states: states of the transform.
        metrics: scalars per client; their sums are metrics of the round.
        sound: `[V]` bool, see `guard`; other clients keep their states.
    """

    result: ClientResult
    states: Tree
    metrics: dict[str, Array]
    sound: Array


def initial_state(recipe: Recipe, shared: Tree) -> dict[str, Tree]:
    """Personal groups of a client in addition to the model's."""
    if recipe.transform is None:
        return {}
    message = sent_groups(recipe.model, shared)
    states = tuple(part.init(message) for part in _parts(recipe.transform))
    return {TRANSFORM: states} if jax.tree.leaves(states) else {}


def without_state(personal: dict[str, Tree]) -> dict[str, Tree]:
    """Personal groups of the model and of wrappers."""
    return {name: part for name, part in personal.items() if name != TRANSFORM}


def sent_groups(model: Model, tree: dict[str, Tree]) -> dict[str, Tree]:
    """Shared groups that clients send."""
    return {name: part for name, part in tree.items() if name not in model.fixed}


def send(
    recipe: Recipe,
    shared: Tree,
    states: Tree,
    cohort_rows: Array,
    result: ClientResult,
    clients: Array,
    keys: Array,
    round_key: Array,
) -> Decoded:
    """Sends the messages of a chunk of clients, updating their states in place.

    Args:
        recipe: the system.
        shared: the shared parameters that the clients started from.
        states: states of the transform for all clients at hand, leaves `[N, ...]`;
            empty if `initial_state` has none.
        cohort_rows: `[V]` int32 positions in `states`; past the end if absent.
        result: outcomes of local training, `[V, ...]`.
        clients: `[V]` ids.
        keys: `[V]` the clients' keys of the round.
        round_key: key that all clients of the round share.
    """
    sound = guard.sound(result, shared)
    if recipe.transform is None:
        return Decoded(result, states, {}, sound)
    parts = _parts(recipe.transform)
    merged = _merged(shared, result.delta)
    message = sent_groups(recipe.model, merged)
    fixed = {name: part for name, part in merged.items() if name not in message}
    if not jax.tree.leaves(states):
        states = tuple(p.init(sent_groups(recipe.model, shared)) for p in parts)
    new_states = []
    for i, part in enumerate(parts):
        senders = Sender(
            id=clients,
            key=jax.vmap(functools.partial(key_of, parts, i))(keys),
            round_key=round_key,
            weight=result.weight,
            personal=result.personal,
        )
        before = memory.take(states[i], cohort_rows, message)
        message, after = jax.vmap(part.encode, _AXES)(message, before, senders)
        new_states.append(after)
        if not part.counted:  # an attack, say; what is encoded is checked once decoded
            sound &= guard.representable(message, shared)
    metrics = {}
    if parts[-1].counted:
        bits = jax.vmap(_num_bits)(message, result.weight)
        more = jnp.where(result.weight > 0, NUMBER_BYTES * recipe.aggregator.numbers, 0)
        metrics = {"up_bytes": bits / 8 + more}
    decoded = jax.vmap(recipe.transform.decode)(message)
    sound &= guard.representable(decoded, shared)
    result = dataclasses.replace(result, delta={**decoded, **fixed})
    writable = guard.writable(cohort_rows, sound & (result.weight > 0))
    states = tuple(
        memory.put(state, writable, new)
        for state, new in zip(states, new_states, strict=True)
    )
    return Decoded(result, states, metrics, sound)


_AXES = (
    0,
    0,
    Sender(id=0, key=0, round_key=None, weight=0, personal=0),  # pyright: ignore
)


def _parts(transform: MessageTransform) -> tuple[MessageTransform, ...]:
    return transform.parts or (transform,)


def _num_bits(message: Tree, weight: Array) -> Array:
    return jnp.where(weight > 0, num_bits(message), 0).astype(weight.dtype)


def _merged(shared: Tree, delta: Tree) -> Tree:
    """The delta with every row of a table once."""

    def merge(table, change):
        if not rows.is_table(table):
            return change
        return jax.vmap(lambda rows_: rows.merge_repeats(rows_, len(table.values)))(
            change
        )

    return jax.tree.map(merge, shared, delta, is_leaf=rows.is_table)
