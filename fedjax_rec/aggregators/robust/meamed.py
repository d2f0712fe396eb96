"""MeaMed: the mean of each coordinate around its median."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from etils import epy

from fedjax_rec.aggregators.robust.voting import Voting, assumed_attackers
from fedjax_rec.core.checks import check_settings

with epy.lazy_imports():
    from fedjax_rec.aggregators.robust import ballots, blocks, order

if TYPE_CHECKING:
    from fedjax_rec.core.arrays import Array
    from fedjax_rec.core.context import Context
    from fedjax_rec.core.contracts import Aggregator


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeaMed:
    """The mean of each coordinate's `n - b` numbers nearest to its median.

    `b = floor(share n)` of the `n` clients that vote on the coordinate, so that share
    0 is the uniform mean. Unlike the trimmed mean, which drops `b` numbers at each end,
    it drops `b` in all. Equally near numbers share the last places. Memory:
    `ballot_bytes`.

    Attributes:
        share: share of numbers dropped, the largest share of attackers that the rule
            withstands.
        voting: the voters on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    References:
        Xie et al., Generalized Byzantine-tolerant SGD, arXiv:1802.10116, 2018,
        definition of the mean around the median.
    """

    share: float = 0.1
    voting: Voting = "dense"
    attackers: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 0.5)", attackers="[0, 0.5)")

    def build(self, context: Context) -> Aggregator:
        """The aggregator."""

        def tolerates(num_voters):
            return assumed_attackers(num_voters, self.share)

        def column(x: Array, voters: Array, counts: Array) -> Array:
            return order.around_median(x, voters, counts, counts - tolerates(counts))

        rule = blocks.by_column(column, tolerates)
        attackers = self.attackers
        aggregator = ballots.buffered(rule, self.voting, self.share, attackers)
        return aggregator._replace(coordinatewise=self.share > 0)
