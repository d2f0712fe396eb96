"""Majority vote: each coordinate goes where most clients want it to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec.aggregators.robust.ballots import finite
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class Votes:
    """Running sums of signs.

    Attributes:
        ayes: like the shared parameters, those for up less those for down.
        rejected: scalar, clients whose delta held a number that is not finite.
    """

    ayes: Tree
    rejected: Array


def majority_vote(*, step: float = 1e-3) -> Aggregator:
    """`step sign(sum_c sign(delta_c))` of each coordinate (signSGD, majority vote).

    A client can no more than vote, whatever the size of what it sends: less than a half
    of the voters cannot turn a coordinate on which the others agree. Of a table's row
    those vote who touched it; a zero abstains, and a tie moves nothing. Memory: one
    delta.

    What is told is a direction, and a round moves every contested coordinate equally
    far: by `step` times the server's learning rate under plain SGD. With the codec
    `sign` a message is one bit a number, to which error feedback lets small ones add
    up.

    Args:
        step: how far a coordinate moves, in the unit of the parameters.

    Returns:
        An aggregator of one vote a client; `info` holds the `tied_share` of the
        coordinates, those that do not move.

    Raises:
        ValueError: `step` is not positive and finite.

    References:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, ICML
        2018, algorithm 3; and signSGD with Majority Vote is Communication Efficient and
        Fault Tolerant, ICLR 2019.
    """
    if not (step > 0 and np.isfinite(step)):
        raise ValueError(f"step must be positive and finite, got {step}")

    def init(shared: Tree, cohort_size: int) -> Votes:
        del cohort_size
        first = jax.tree.leaves(shared)[0]
        ayes = jax.tree.map(jnp.zeros_like, shared)
        return Votes(ayes=ayes, rejected=jnp.zeros((), first.dtype))

    def update(acc: Votes, deltas: Tree, weights: Array, senders: Senders) -> Votes:
        del senders
        here = weights > 0
        sound = here & finite(jax.tree.map(lambda x: x[None], acc.ayes), deltas)

        def add(total, delta):
            if rows.is_rows(delta):
                length = len(total.values)
                # A row that a client sends in parts has one vote.
                once = jax.vmap(lambda sent: rows.merge_repeats(sent, length))(delta)
                ids = jnp.where(sound[:, None], once.ids, length)
                signs = dataclasses.replace(once, ids=ids, values=jnp.sign(once.values))
                values = rows.scatter_add(total.values, signs)
                return dataclasses.replace(total, values=values)
            voters = sound.reshape(-1, *[1] * (delta.ndim - 1))
            signs = jnp.where(voters, jnp.sign(delta), 0)
            return total + signs.sum(0).astype(total.dtype)

        return Votes(
            ayes=jax.tree.map(add, acc.ayes, deltas, is_leaf=rows.is_table),
            rejected=acc.rejected + (here & ~sound).sum().astype(acc.rejected.dtype),
        )

    def finish(acc: Votes, state: Tree, shared: Tree):
        del shared
        leaves = jax.tree.leaves(acc.ayes)
        tied = sum((x == 0).sum() for x in leaves) / sum(x.size for x in leaves)
        delta = jax.tree.map(lambda x: step * jnp.sign(x), acc.ayes)
        return delta, state, {"rejected_clients": acc.rejected, "tied_share": tied}

    return Aggregator(init, update, finish)
