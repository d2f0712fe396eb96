"""Votes by coordinate: median, trimmed mean and majority; and the geometric median."""

from __future__ import annotations

import dataclasses

from etils import epy

from fedjax_rec.aggregators.robust.voting import (
    ByVotes,
    assumed_attackers,
    majority_tolerates,
)
from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import ballots, blocks, order
    from fedjax_rec.core import contracts, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Median(ByVotes):
    """The median of each coordinate over the present clients.

    With `voting="dense"` it is zero on every row that fewer than half of the clients
    touched: right as an estimate, and the end of learning for most items of a
    recommender. Memory: `ballot_bytes`.

    Attributes:
        voting: the voters on a row of a table.
        share: assumed share of attackers, for the report only.

    References:
        Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 1.
    """

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""
        rule = blocks.by_column(order.median, majority_tolerates)
        aggregator = ballots.buffered(rule, self.voting, self.share)
        return aggregator._replace(coordinatewise=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrimmedMean(ByVotes):
    """The mean of each coordinate without its `f` largest and `f` smallest numbers.

    `f = floor(share n)` of the `n` clients that vote on the coordinate, so that share
    0 is the uniform mean. Memory: `ballot_bytes`.

    A row's voters are a sample of the clients. With voting by row, trim a larger share
    than is expected to attack: with the same, about every other row has more attackers
    than are trimmed.

    Attributes:
        share: share trimmed at each end, the largest share of attackers that the rule
            withstands.
        voting: the voters on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    References:
        Yin et al., Byzantine-Robust Distributed Learning, ICML 2018, definition 2.
    """

    attackers: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, share="[0, 0.5)", attackers="[0, 0.5)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def tolerates(num_voters):
            return assumed_attackers(num_voters, self.share)

        def column(x: jax.Array, voters: jax.Array, counts: jax.Array) -> jax.Array:
            return trimmed(x, voters, counts, tolerates(counts))

        rule = blocks.by_column(column, tolerates)
        attackers = self.attackers
        aggregator = ballots.buffered(rule, self.voting, self.share, attackers)
        return aggregator._replace(coordinatewise=self.share > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeometricMedian(ByVotes):
    """RFA: the point with the smallest sum of distances to the clients' deltas.

    `argmin_z sum_c alpha_c |z - delta_c|`, by `steps` towards
    `t = sum_c beta_c delta_c / sum_c beta_c`, `beta_c = alpha_c / |z - delta_c|`. The
    first `z` is the coordinate median, since attackers can choose the mean, the usual
    start. Memory: `ballot_bytes`.

    Deltas at `z`, such as zeros among sparse ones, would hold plain steps there for
    good. They are left out of `t`, and `z` goes `max(0, 1 - eta / r)` of the way, with
    their weight `eta` and the pull of all others, `r = |sum_c beta_c (delta_c - z)|`:
    `z` stays only where it is the geometric median.

    With voting by row, each row of a table has a median of its own voters, and all
    other leaves have one together.

    Attributes:
        steps: Weiszfeld steps.
        smoothing: distance up to which a delta is at `z`, relative to the median one.
        examples: clients weigh by their examples, as published, and not the same. An
            attacker can then lie about its number.
        voting: the voters on a row of a table.
        share: assumed share of attackers, for the report only.

    References:
        Pillutla et al., Robust Aggregation for Federated Learning, IEEE Transactions
        on Signal Processing 2022, algorithm 2. Vardi and Zhang, The Multivariate
        L1-Median and Associated Data Depth, PNAS 2000 (deltas at `z`).
    """

    steps: int = 4
    smoothing: float = 1e-3
    examples: bool = False

    def __post_init__(self) -> None:
        check_settings(self, steps="[1, inf)", smoothing="(0, inf)", share="[0, 0.5)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def median(xs, voters, weights, state):
            alpha = weights if self.examples else jnp.ones_like(weights)
            alpha = jnp.where(voters, alpha[:, None], 0)
            counts = voters.sum(0, dtype=jnp.int32)

            def step(_, z):
                far = blocks.distances(xs, z)
                near = far <= self.smoothing * order.median(far, voters, counts)
                beta = jnp.where(near, 0, alpha / jnp.where(far > 0, far, 1))
                total, eta = beta.sum(0), jnp.where(near, alpha, 0).sum(0)
                t = blocks.weighted_sums(beta / jnp.where(total > 0, total, 1), xs)
                pull = total * blocks.distances([x[None] for x in t], z)[0]
                part = jnp.where(pull > eta, 1 - eta / jnp.where(pull > 0, pull, 1), 0)
                part = part[:, None]
                return [(1 - part) * a + part * b for a, b in zip(z, t, strict=True)]

            of = voters if voters.shape[1] > 1 else voters[:, 0]
            start = [order.columnwise(order.median, x, of) for x in xs]
            return jax.lax.fori_loop(0, self.steps, step, start), state, {}

        rule = blocks.by_block(median, majority_tolerates)
        return ballots.buffered(rule, self.voting, self.share)


def trimmed(
    x: jax.Array, voters: jax.Array, counts: jax.Array, f: jax.Array
) -> jax.Array:
    """The mean of each column's numbers from rank `f` to rank `counts - f - 1`.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        counts: `[P]` or `[1]` int32, the number of voters.
        f: `[P]` or `[1]` int32, below half of them.
    """
    low = order.kth_smallest(x, voters, f)
    high = order.kth_smallest(x, voters, jnp.maximum(counts - f - 1, 0))
    inside = voters & (x > low) & (x < high)
    # Numbers equal to an end count as often as their ranks are inside.
    at_low = (voters & (x <= low)).sum(0, dtype=jnp.int32) - f
    at_high = counts - f - (voters & (x < high)).sum(0, dtype=jnp.int32)
    num = jnp.maximum(counts - 2 * f, 1).astype(x.dtype)
    ends = low * at_low.astype(x.dtype) + high * at_high.astype(x.dtype)
    mean = (jnp.where(inside, x, 0).sum(0) + ends) / num
    return jnp.where(counts > 0, jnp.where(low == high, low, mean), 0)


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

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def weigh(acc, deltas, weights, senders):
            # A row that a client sends in parts has one vote.
            once = fold.each_row_once(deltas, rows.table_lengths(acc.total))
            signs = rows.map_values(jnp.sign, once)
            return signs, (weights > 0).astype(weights.dtype), acc.sums

        def finish(acc, state, shared):
            leaves = jax.tree.leaves(acc.total)
            zeros = jnp.stack([(x == 0).sum() for x in leaves]).sum()
            tied = zeros / sum(x.size for x in leaves)
            delta = jax.tree.map(lambda x: self.step * jnp.sign(x), acc.total)
            return delta, state, {"tied_share": tied}

        return fold.fold(weigh, finish, equal=True)
