"""The deltas of a cohort, with further numbers that rules read of each client."""

from typing import NamedTuple

import jax.numpy as jnp

from fedjax_rec.aggregators import fold
from fedjax_rec.aggregators.robust import ballots as buffer
from fedjax_rec.aggregators.robust.voting import Voting
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Senders


class Polled(NamedTuple):
    """A buffer of a cohort.

    Attributes:
        ballots: the deltas.
        numbers: the `loss` `[C, 1]` of each client, its `ids` and others by name, as
            the deltas of ballots.
    """

    ballots: buffer.Ballots
    numbers: buffer.Ballots

    @property
    def loss(self) -> Array:
        """`[C]`."""
        return self.numbers.deltas["loss"][:, 0]

    @property
    def ids(self) -> Array:
        """Ids of the clients, `[C]` int32; -1 if absent."""
        high, low = self.numbers.deltas["ids"].astype(jnp.int32).T
        return (high << 16) + low - 1


def empty(
    shared: Tree, cohort_size: int, widths: dict[str, int], voting: Voting = "dense"
) -> Polled:
    """The buffer of a cohort before any client has sent its delta.

    Args:
        shared: the shared parameters.
        cohort_size: `C`.
        widths: width of further numbers by name.
        voting: as for `ballots.empty`.
    """
    dtype, widths = fold.scalar(shared).dtype, {**widths, "loss": 1, "ids": 2}
    zeros = {name: jnp.zeros(width, dtype) for name, width in widths.items()}
    return Polled(
        buffer.empty(shared, cohort_size, voting), buffer.empty(zeros, cohort_size)
    )


def written(
    acc: Polled,
    deltas: Tree,
    weights: Array,
    senders: Senders,
    numbers: dict[str, Array],
) -> Polled:
    """The buffer with a chunk of clients in their slots; `numbers` are `[V, ...]`."""
    # In the deltas' type, since one all-reduce joins arrays of one type.
    ids = jnp.stack(jnp.divmod(senders.ids + 1, 1 << 16), axis=-1)
    numbers = {**numbers, "loss": senders.loss[:, None], "ids": ids}
    return Polled(
        buffer.written(acc.ballots, deltas, weights, senders),
        buffer.written(acc.numbers, numbers, weights, senders),
    )
