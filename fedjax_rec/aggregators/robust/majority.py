"""Majority vote: each coordinate moves in the direction of most clients."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.core.checks import check_ranges

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.core import rows

if TYPE_CHECKING:
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class MajorityVote:
    """`step sign(sum_c sign(delta_c))` of each coordinate (signSGD, majority vote).

    A client has one vote, whatever the size of its delta: less than half of the voters
    cannot turn a coordinate on which the others agree. The voters on a row of a table
    are the clients that touched it; a zero abstains, and a tie moves no coordinate.
    Memory: one delta. `info` has the `tied_share` of the coordinates.

    The outcome is a direction: a round moves every contested coordinate equally far,
    under plain SGD by `step` times the server's learning rate. With the codec `sign` a
    message has one bit per number, and error feedback lets small ones add up.

    Attributes:
        step: length of a coordinate's move, in the unit of the parameters.

    References:
        Bernstein et al., signSGD: Compressed Optimisation for Non-Convex Problems, ICML
        2018, algorithm 3; and signSGD with Majority Vote is Communication Efficient and
        Fault Tolerant, ICLR 2019.
    """

    step: float = 1e-3

    def __post_init__(self) -> None:
        check_ranges(self, step="(0, inf)")

    def build(self, context: Context) -> Aggregator:
        """The aggregator."""

        def weigh(acc, deltas, weights, senders):
            lengths = rows.table_lengths(acc.total)
            sound, rejected = fold.accepted(deltas, weights, lengths)
            # A row that a client sends in parts has one vote.
            once = fold.zeroed(fold.each_row_once(deltas, lengths), sound)
            signs = rows.map_values(jnp.sign, once)
            return signs, sound.astype(weights.dtype), acc.sums + rejected

        def finish(acc, state, shared):
            leaves = jax.tree.leaves(acc.total)
            tied = sum((x == 0).sum() for x in leaves) / sum(x.size for x in leaves)
            delta = jax.tree.map(lambda x: self.step * jnp.sign(x), acc.total)
            return delta, state, {"rejected_clients": acc.sums, "tied_share": tied}

        return fold.fold(weigh, finish)
