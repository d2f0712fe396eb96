"""NNM: nearest-neighbour mixing before another rule."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epy

from fedjax_rec.aggregators.robust.medians import Median
from fedjax_rec.aggregators.robust.voting import assumed_attackers, row_report
from fedjax_rec.core.checks import check_ranges
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators.robust import ballots, order, pairs
    from fedjax_rec.core import contracts


@dataclasses.dataclass(frozen=True, kw_only=True)
class NNM:
    """Replaces each delta by the mean of the `n - f` nearest, itself among them.

    `f = floor(share n)`. If a rule has a bound `(f, kappa)` for deltas that vary much,
    mixing makes `kappa` of the order `f / n`. Equally near deltas share the last
    places. Memory: twice `ballot_bytes`, and `2 C^2` numbers, at the end.

    If `then` votes by row, each row of a voter becomes the mean of the `v - floor(share
    v)` nearest rows of the row's `v` voters, and all other leaves are mixed jointly: a
    mixture of whole deltas would touch every row that one of them touched. The report
    is the worse one of `then` and of mixing, which withstands `floor(share v)`.

    Attributes:
        share: assumed share of attackers.
        then: the rule for the mixed deltas, one with a buffer.

    References:
        Allouah et al., Fixing by Mixing, AISTATS 2023, algorithm 2.
    """

    share: float = 0.1
    then: Any = Median()

    def __post_init__(self) -> None:
        check_ranges(self, share="[0, 0.5)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator; `init` raises a ValueError if `then` has no buffer."""
        rule = self.then.build(context)

        def init(shared: Any, cohort_size: int) -> ballots.Ballots:
            return ballots.kept_by(rule, "NNM", shared, cohort_size)

        def finish(acc: ballots.Ballots, state: Any, shared: Any):
            delta, state, info = rule.finish(self._mixed(acc), state, shared)
            counts = [table.counts for table in ballots.split(acc)[1]]
            size = len(acc.weights)
            # The number withstood grows with the share: a report that is worse on one
            # row is worse on all.
            report = row_report(counts, self._assumed, self.share, size)
            worse = {name: jnp.maximum(x, info[name]) for name, x in report.items()}
            return delta, state, {**info, **worse}

        return rule._replace(init=init, finish=finish)

    def _assumed(self, num_voters):
        return assumed_attackers(num_voters, self.share)

    def _mixed(self, acc: ballots.Ballots) -> ballots.Ballots:
        """The ballots after mixing; absent clients stay absent."""
        part, tables = ballots.split(acc)
        joint = part.deltas
        if jax.tree.leaves(joint):
            joint = self._mix(joint, acc.voters, strips=4)
        values = [pairs.row_by_row(self._mix, table, ballots=True) for table in tables]
        return acc._replace(deltas=ballots.with_rows(acc.deltas, joint, values))

    def _mix(self, deltas: Any, voters: jax.Array, strips: int = 1) -> Any:
        """Each client's mean of its nearest.

        Args:
            deltas: leaves `[C, ...]`.
            voters: `[C]` bool.
            strips: as in `pairs.squared_distances`.
        """
        squared = pairs.squared_distances(deltas, strips)
        n = voters.sum(dtype=jnp.int32)
        keep = jnp.broadcast_to(n - self._assumed(n), voters.shape)
        near = order.smallest(squared, voters[:, None], keep).T
        near = jnp.where(voters[:, None], near / jnp.maximum(keep, 1)[:, None], 0)
        precision = jax.lax.Precision.HIGHEST

        def leaf(x: jax.Array) -> jax.Array:
            flat = x.reshape(len(x), -1)
            mean = jnp.matmul(near.astype(x.dtype), flat, precision=precision)
            return mean.reshape(x.shape)

        return jax.tree.map(leaf, deltas)
