"""Bytes, pairs and memory of one client in a round.

They are functions of how much a client holds, as an expectation over the negatives it
draws. Clients that hold equally much share one *cost class*, so that a round looks up
the costs of its cohort.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.codecs.wire import num_bits
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import NUMBER_BYTES, Local, Model, Recipe
from fedjax_rec.core.messages import Sender
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition

ID_BYTES = 4
"""Bytes of a row's id in a message."""


class Holdings(NamedTuple):
    """Amounts of data that clients hold; int64 arrays, by client or by cost class.

    Attributes:
        examples: training interactions.
        items: distinct items among them.
        users: distinct users among them.
    """

    examples: np.ndarray
    items: np.ndarray
    users: np.ndarray


class CostClasses(NamedTuple):
    """Costs of one client in a round; float64 `[P]`, one entry per cost class.

    Attributes:
        down: bytes received.
        up: bytes sent; `[K, P]` in a client's first message, its second and so on, if
            the message transform has a schedule.
        pairs: labelled pairs trained, over all local epochs.
        memory: bytes needed for local training.
    """

    down: np.ndarray
    up: np.ndarray
    pairs: np.ndarray
    memory: np.ndarray


def count_holdings(train: Interactions, partition: Partition) -> Holdings:
    """Holdings of each client `[N]`."""
    n, client = partition.num_clients, partition.client.astype(np.int64)

    def distinct(column: np.ndarray, size: int) -> np.ndarray:
        return np.bincount(np.unique(client * size + column) // size, minlength=n)

    examples = np.bincount(client, minlength=n)
    users = (examples > 0).astype(np.int64)
    if partition.user_of_client is None:
        users = distinct(train.user, train.num_users)
    return Holdings(examples, distinct(train.item, train.num_items), users)


def assign_cost_classes(holdings: Holdings) -> tuple[np.ndarray, Holdings]:
    """Each client's cost class `[N]`, and the holdings of each class `[P]`."""
    cost_class = np.zeros(len(holdings.examples), np.int64)
    for column in holdings:  # one by one: sorting numbers is far quicker than rows
        cost_class = cost_class * (column.max(initial=0) + 1) + column
        _, first, cost_class = np.unique(
            cost_class, return_index=True, return_inverse=True
        )
    by_class = Holdings(*(column[first] for column in holdings))
    return cost_class.astype(np.int32), by_class


def touched_rows(
    holdings: Holdings, local: Local, num_items: int
) -> dict[str, np.ndarray]:
    """Expected number of rows that one round touches, by space of row tables.

    With `d` distinct items in `m` examples, each of the `I - d` others is a negative of
    one example with probability `negatives / (I - d)`, so no example draws it with
    probability `(1 - negatives / (I - d))^m`. Exact for clients of one user with each
    item once; several users, which may draw one another's items, are taken as one.

    Args:
        holdings: holdings of clients or cost classes `[n]`.
        local: local training; `negatives` per example, or `every_row`.
        num_items: `I`, items that training may see.

    Returns:
        `item` and `user` to float64 `[n]`.
    """
    if local.every_row:
        every = np.full(len(holdings.items), np.inf)
        return {"item": every, "user": every}
    others = np.maximum(num_items - holdings.items, 0)
    hit = np.minimum(local.negatives / np.maximum(others, 1), 1)
    items = holdings.items + others * (1 - (1 - hit) ** holdings.examples)
    return {"item": items, "user": holdings.users.astype(np.float64)}


def message_bytes(model: Model, touched: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Bytes of each group of the shared parameters, as a client receives or sends them.

    Dense leaves go whole, in their own dtype; a row table goes by its touched rows,
    each with its id.

    Args:
        model: the model that a client trains.
        touched: rows touched by each cost class `[P]`, by space of row tables.

    Returns:
        Group name to float64 `[P]`.
    """
    shared = jax.eval_shape(model.init, jax.random.key(0)).shared
    count = len(next(iter(touched.values())))

    def size(leaf: Any) -> np.ndarray:
        if not rows.is_table(leaf):
            return np.full(count, float(leaf.size * leaf.dtype.itemsize))
        values = leaf.values
        row = values.size // len(values) * values.dtype.itemsize + ID_BYTES
        return np.minimum(touched[leaf.space], len(values)) * row

    def total(group: Tree) -> np.ndarray:
        leaves = jax.tree.leaves(group, is_leaf=rows.is_table)
        return np.sum([np.zeros(count), *map(size, leaves)], axis=0)

    return {name: total(group) for name, group in shared.items()}


def encoded_bytes(recipe: Recipe, touched: Mapping[str, np.ndarray]) -> np.ndarray:
    """Bytes of a client's encoded messages, for normal deltas on rows drawn at random.

    Exact if a codec's price depends on the number of rows, not on their ids or values;
    a run counts its real messages.

    Args:
        recipe: a recipe whose message transform counts bits.
        touched: rows touched by each cost class `[P]`, by space of row tables.

    Returns:
        float64 `[P]`, or `[K, P]` for a schedule of `K` messages.
    """
    transform, fixed = recipe.transform, recipe.model.fixed
    assert transform is not None
    key = jax.random.key(0)
    start = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(recipe.model.init, key)
    )
    zeros = {name: part for name, part in start.shared.items() if name not in fixed}
    length = {t.space: len(t.values) for t in rows.tables_of(zeros)}
    touched = {
        space: np.minimum(count, length.get(space, 0))
        for space, count in touched.items()
    }
    most = {space: int(np.ceil(count.max())) for space, count in touched.items()}
    state = transform.init(zeros)
    sender = Sender(
        id=jnp.int32(0),
        key=key,
        round_key=key,
        weight=jnp.ones(()),
        personal=start.personal,
    )

    def change(leaf: Any, counts: dict[str, Array]) -> Any:
        if not rows.is_table(leaf):
            return jax.random.normal(key, leaf.shape, leaf.dtype)
        n = len(leaf.values)
        r = max(1, min(n, most[leaf.space]))
        ids = jax.random.permutation(key, n)[:r].astype(jnp.int32)
        ids = jnp.where(jnp.arange(r) < counts[leaf.space], ids, n)
        values = jax.random.normal(key, (r, *leaf.values.shape[1:]), leaf.values.dtype)
        return rows.Rows(ids=ids, values=values, space=leaf.space, num_rows=n)

    def bits(counts: dict[str, Array]) -> Array:
        delta = jax.tree.map(lambda x: change(x, counts), zeros, is_leaf=rows.is_table)
        if transform.schedule == 1:
            return num_bits(transform.encode(delta, state, sender)[0])

        def send(state: Tree, _: None) -> tuple[Tree, Array]:
            message, state = transform.encode(delta, state, sender)
            return state, num_bits(message)

        return jax.lax.scan(send, state, length=transform.schedule)[1]

    counts = {k: jnp.asarray(np.round(c), jnp.int32) for k, c in touched.items()}
    return np.asarray(jax.jit(lambda c: jax.lax.map(bits, c))(counts)).T / 8.0


def make_cost_classes(
    recipe: Recipe, holdings: Holdings, num_items: int
) -> CostClasses:
    """Costs of a client of each class.

    A client without examples neither receives, trains nor sends. Memory
    consists of the frozen weights, the received models, the personal part, and for each
    trained number a copy, a gradient and the optimizer's states; activations are not
    counted.

    Args:
        recipe: the system, for the size of its messages.
        holdings: holdings of each cost class `[P]`.
        num_items: items that training may see.
    """
    model, local, stack = recipe.model, recipe.local, recipe.model.stack
    received, fixed = 1, model.fixed
    if stack is not None:
        model, received = stack.model, stack.received
    touched = touched_rows(holdings, local, num_items)
    groups = message_bytes(model, touched)
    present = holdings.examples > 0
    zero = np.zeros(len(present))
    down = sum(groups.values(), zero) * present * received
    trained = [size for name, size in groups.items() if name not in fixed]
    trains = sum(trained, zero) * present
    transform = recipe.transform
    up = trains
    if transform is not None and transform.counted:
        up = encoded_bytes(recipe, touched) * present
    up = up + NUMBER_BYTES * recipe.aggregator.numbers * present
    leaves = jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)).personal)
    personal = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    copies = (trains + personal) * (2 + local.optimizer_states)
    return CostClasses(
        down=down,
        up=up,
        pairs=holdings.examples * float((1 + local.negatives) * local.epochs),
        memory=local.weight_bytes + down + personal + copies,
    )


def group_bits(recipe: Recipe, holdings: Holdings, num_items: int) -> dict[str, int]:
    """Bits of each group that a client trains, in the mean over all clients `[N]`."""
    cost_class, by_class = assign_cost_classes(holdings)
    touched = touched_rows(by_class, recipe.local, num_items)
    return {
        name: round(8 * float(size[cost_class].mean()))
        for name, size in message_bytes(recipe.model, touched).items()
        if name not in recipe.model.fixed
    }
