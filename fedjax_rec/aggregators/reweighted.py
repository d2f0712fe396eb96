"""A rule whose clients weigh more or less by what their message shows."""

from collections.abc import Callable

import jax.numpy as jnp

from fedjax_rec.aggregators.means import weighted_mean
from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.contracts import Aggregator, Senders

MOST = 60.0
"""Exponents are cut to this size: sums of their powers stay finite in float32."""

Factor = Callable[[Tree, Array, Senders, tuple[int, ...]], Array]
"""`(deltas, weights [V], senders, table lengths) -> [V]`, not negative."""


@struct
class Reweighted:
    """Another rule's accumulator, and what norms of rows need to know.

    Attributes:
        inner: of the other rule.
        lengths: `I` of each table.
    """

    inner: Tree
    lengths: tuple[int, ...] = static()


def reweighted(factor: Factor, inner: Aggregator | None = None) -> Aggregator:
    """Multiplies the clients' weights by a factor before another rule reads them.

    Args:
        factor: of each client; a factor of 0 makes a client absent.
        inner: the rule, one that reads weights; by default the weighted mean.

    Returns:
        An aggregator with the memory of `inner`.
    """
    inner = weighted_mean() if inner is None else inner

    def init(shared: Tree, cohort_size: int) -> Reweighted:
        acc = inner.init(shared, cohort_size)
        return Reweighted(inner=acc, lengths=rows.table_lengths(shared))

    def update(
        acc: Reweighted, deltas: Tree, weights: Array, senders: Senders
    ) -> Reweighted:
        scaled = weights * factor(deltas, weights, senders, acc.lengths)
        # What an absent client's message would show is anything, even infinite.
        scaled = jnp.where(weights > 0, scaled, 0).astype(weights.dtype)
        folded = inner.update(acc.inner, deltas, scaled, senders)
        return Reweighted(inner=folded, lengths=acc.lengths)

    def finish(acc: Reweighted, state: Tree, shared: Tree):
        return inner.finish(acc.inner, state, shared)

    def begin(acc: Reweighted, state: Tree) -> Reweighted:
        return Reweighted(inner=inner.begin(acc.inner, state), lengths=acc.lengths)

    return Aggregator(init, update, finish, inner.start, begin=begin)
