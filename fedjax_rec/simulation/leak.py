"""The draw-count ranker over what the clients of a run really draw."""

import jax
import jax.numpy as jnp

from fedjax_rec.core import trees
from fedjax_rec.core.arrays import Array
from fedjax_rec.core.contracts import Recipe
from fedjax_rec.data.clients import ClientData
from fedjax_rec.simulation.round import client_key, fold_clients


def count_draws(
    recipe: Recipe,
    data: ClientData,
    chunks: tuple[int, ...],
    users: Array,
    clients: Array,
    rows: Array,
    root: Array,
    first_round: int | Array,
    rounds: Array,
) -> Array:
    """How often each item was a negative of each user, over the run's own keys.

    Args:
        recipe: says how a client draws.
        data: what the clients hold.
        chunks: `V` of each bucket.
        users: `[S]` int32, ascending: whose draws are counted.
        clients: `[C]` int32: who draws for them.
        rows: `[C]` int32, where these stand in `data`; absent past its end.
        root: the experiment's root key.
        first_round: scalar, the first round counted.
        rounds: scalar, how many; every client is taken to take part in each.

    Returns:
        `[S, I]` int32.
    """
    if recipe.local.draw is None:
        raise ValueError("this recipe draws no pairs, so there are no negatives")
    draw, num_items, s = recipe.local.draw, data.num_items, users.shape[0]
    slot = jnp.full(data.num_users + 1, s, jnp.int32).at[users].set(jnp.arange(s))

    def one_round(i, counts):
        keys = jax.vmap(client_key, (None, None, 0))(root, first_round + i, clients)

        def visit(counts, bucket, slots, chunk):
            def drawn(row, key):
                pairs = draw(data.examples(row, bucket), jax.random.split(key, 3)[0])
                negative = pairs["mask"] & (pairs["label"] == 0)
                return slot[pairs["user"]], jnp.where(
                    negative, pairs["item"], num_items
                )

            who, item = jax.vmap(drawn)(chunk, trees.take(keys, slots))
            return counts.at[who.reshape(-1), item.reshape(-1)].add(1, mode="drop")

        return fold_clients(visit, counts, rows, data, chunks)

    counts = jnp.zeros((s, num_items), jnp.int32)
    return jax.lax.fori_loop(0, rounds, one_round, counts)
