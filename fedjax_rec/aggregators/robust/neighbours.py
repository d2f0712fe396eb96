"""Rules by nearest neighbours: Bulyan, and nearest-neighbour mixing."""

from __future__ import annotations

import dataclasses
from typing import Any

from etils import epy

from fedjax_rec.aggregators.robust.medians import Median
from fedjax_rec.aggregators.robust.voting import ByVotes, assumed_attackers, row_report
from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators.robust import ballots, order, pairs
    from fedjax_rec.core import contracts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bulyan(ByVotes):
    """Krum chooses `n - 2 f` clients; each coordinate averages the middle of them.

    The client that Krum would take is set aside, Krum is asked again among the others,
    and so on `theta = n - 2 f` times; with `m` left, a score sums the squared distances
    to the `m - f - 2` nearest, and to at least one. Then every coordinate is the mean
    of the `theta - 2 f` chosen numbers nearest to their median; equally near ones share
    the last places. With share 0 it is the uniform mean. Memory: `ballot_bytes`, and
    `5 C^2` numbers at the end; its time grows with `C^3`.

    With voting by row, every row of a table is decided so among its own voters, and all
    other leaves together. Bulyan withstands `f` attackers among `4 f + 3` voters; among
    fewer voters `f = (v - 3) // 4` are assumed, and a row of up to six voters is their
    mean. Time grows with the sum of `v^3` over the rows: for cohorts of some hundred.

    Attributes:
        share: assumed share of attackers, `f = floor(share n)`; a cohort has to hold `4
            f + 3` clients.
        voting: the voters on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    References:
        El Mhamdi et al., The Hidden Vulnerability of Distributed Learning in
        Byzantium, ICML 2018, algorithm 2.
    """

    attackers: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 0.25)", attackers="[0, 0.5)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def rule(deltas, squared, voters, f, by_row):
            n = voters.sum(dtype=jnp.int32)
            chosen = choose(squared, voters, f, n - 2 * f)

            def column(x, voters, counts):
                keep = jnp.maximum(n - 4 * f, 1)
                return order.around_median(x, voters, counts, keep[None])

            return order.coordinatewise(column, deltas, chosen), {}

        by_pairs = pairs.by_pairs("Bulyan", rule, self.share, 4)
        attackers = self.attackers
        aggregator = ballots.buffered(by_pairs, self.voting, self.share, attackers)
        return aggregator._replace(coordinatewise=self.share > 0)


def choose(
    squared: jax.Array, voters: jax.Array, f: jax.Array, num: jax.Array
) -> jax.Array:
    """The clients that Krum sets aside in `num` rounds.

    Distances are sorted once. A client's neighbours are then the first of its row that
    are still left; each round removes one client and asks for one neighbour fewer.

    Args:
        squared: `[C, C]`.
        voters: `[C]` bool.
        f: int32 scalar, assumed attackers.
        num: int32 scalar, at most the number of voters.

    Returns:
        `[C]` bool.
    """
    c = len(voters)
    places = jnp.arange(c, dtype=jnp.int32)
    # A client is no neighbour of its own, and absent clients are no neighbours.
    others = voters[None] & (places[:, None] != places[None])
    # Distances that overflowed still come before absent clients.
    finite = jnp.minimum(squared, jnp.finfo(squared.dtype).max)
    far = jnp.where(others, finite, jnp.inf)
    _, who = jax.lax.sort_key_val(far, jnp.broadcast_to(places, (c, c)))
    sorted_far = jnp.take_along_axis(far, who, axis=1)
    place_of = jnp.zeros_like(who).at[places[:, None], who].set(places[None])
    alive = jnp.take_along_axis(others, who, axis=1)
    n = voters.sum(dtype=jnp.int32)

    def step(i, carry):
        left, alive, last = carry
        within = alive & (places[None] <= last[:, None])
        score = jnp.where(within, sorted_far, 0).sum(1)
        score = jnp.minimum(score, jnp.finfo(score.dtype).max)
        taken = jnp.where(left, score, jnp.inf).argmin()
        position = place_of[:, taken]
        new_alive = alive.at[places, position].set(False)
        few = n - i - f - 2 <= 1
        before = jnp.where(new_alive & (places[None] < last[:, None]), places[None], -1)
        after = jnp.where(new_alive & (places[None] > last[:, None]), places[None], c)
        # A client that loses a neighbour has one fewer, as it should; one that loses
        # another client drops its farthest. Instead of its last one it takes the next.
        lost_inside = position < last
        fewer = jnp.where(
            lost_inside & (place_of[:, taken] != last), last, before.max(1)
        )
        same = jnp.where(position == last, after.min(1), last)
        return left.at[taken].set(False), new_alive, jnp.where(few, same, fewer)

    num_near = jnp.clip(n - f - 2, 1, jnp.maximum(n - 1, 1))
    last = jnp.broadcast_to(num_near - 1, (c,))
    left, _, _ = jax.lax.fori_loop(0, num, step, (voters, alive, last))
    return voters & ~left


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

        # A mixture of most deltas has no more zeros than all of them.
        return rule._replace(init=init, finish=finish, coordinatewise=False)

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
