"""Rules that bound the influence of a client: centered clipping and norm bounding."""

from __future__ import annotations

import dataclasses
import math

from etils import epy

from fedjax_rec.aggregators.robust.voting import ByVotes, majority_tolerates
from fedjax_rec.core.checks import check_ranges, check_settings
from fedjax_rec.core.context import Context

with epy.lazy_imports():
    import jax
    import jax.numpy as jnp

    from fedjax_rec.aggregators import fold
    from fedjax_rec.aggregators.robust import ballots, blocks, order
    from fedjax_rec.core import contracts, rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class CenteredClipping(ByVotes):
    """The last aggregate, moved by the mean of the clipped differences to it.

    `v <- v + 1/n sum_c (delta_c - v) min(1, tau / |delta_c - v|)`, `steps` times, from
    the last round's `v`, which the server keeps and which is zero at first. Memory:
    `ballot_bytes`, and one delta between rounds.

    With voting by row, each row of a table has its own `v`, `tau` and mean, over the
    clients that touched it; an untouched row keeps its `v` and does not move. With
    `diluted` the server keeps the undiluted `v`. The median as radius then withstands
    fewer attackers than half of a row's voters; a given radius bounds any number.

    `info` has the last `clip_radius` and the `clipped_share` of the clients of the
    joint decision, and with voting by row the `clipped_row_share` of the votes on rows.

    Attributes:
        radius: `tau`, in the unit of the deltas; by default the median distance to `v`
            at each step, which fewer than half of the clients cannot choose. The
            published rule has a constant.
        steps: clipping steps, each from the end of the last one.
        voting: the voters on a row of a table.
        share: assumed share of attackers, for the report only.

    References:
        Karimireddy, He and Jaggi, Learning from History for Byzantine Robust
        Optimization, ICML 2021, algorithm 2.
    """

    radius: float | None = None
    steps: int = 1

    def __post_init__(self) -> None:
        check_settings(self, radius="[0, inf)", steps="[1, inf)", share="[0, 0.5)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""

        def clip(xs, voters, weights, centers):
            counts = voters.sum(0, dtype=jnp.int32)

            def step(_, carry):
                far = blocks.distances(xs, carry[0])
                if self.radius is None:
                    tau = order.median(far, voters, counts)
                else:
                    tau = jnp.full(far.shape[1:], self.radius, far.dtype)
                factors = _shrunk(far, tau, voters) / jnp.maximum(counts, 1)
                stay = (1 - factors.sum(0))[:, None]
                moved = blocks.weighted_sums(factors, xs)
                moved = [stay * v + x for v, x in zip(carry[0], moved, strict=True)]
                return moved, tau, (voters & (far > tau)).sum(0).astype(far.dtype)

            zero = jnp.zeros_like(centers[0][:, 0])
            start = (centers, zero, zero)
            new, tau, clipped = jax.lax.fori_loop(0, self.steps, step, start)
            values = [jnp.where(counts[:, None] > 0, v, 0) for v in new]
            return values, new, {"clip_radius": tau, "clipped": clipped}

        def zeros(values):
            return [jnp.zeros_like(v) for v in values]

        rule = blocks.by_block(clip, majority_tolerates, zeros)
        return ballots.buffered(rule, self.voting, self.share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormBound(ByVotes):
    """The uniform mean of the deltas, each scaled down to a norm of at most `bound`.

    `1/n sum_c delta_c min(1, b / |delta_c|)`, with norms over all leaves. Memory: one
    delta and `2 C` numbers; with voting by row `ballot_bytes`.

    With voting by row, each row of a table has its own bound, which follows the median
    norm of its voters, and is averaged over them; fewer than half of them cannot choose
    it. All other leaves are bounded jointly.

    `info` has the `norm_bound` of the round and the `clipped_share` of the clients of
    the joint decision, and with voting by row the `clipped_row_share` of the votes on
    rows.

    Attributes:
        bound: `b`, in the unit of the deltas. By default it follows the median norm,
            and a round clips to the bound that the rounds before have left: `b <-
            momentum b + (1 - momentum) median`.
        first: `b` of the first round, if `bound` is `None`. By default none is known,
            and the mean is scaled down to the median norm.
        momentum: weight of the old bound in the new one.
        voting: the voters on a row of a table.
        share: assumed share of attackers, for the report only.

    References:
        Sun et al., Can You Really Backdoor Federated Learning?, 2019, section 4.
    """

    bound: float | None = None
    first: float | None = None
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_ranges(self, bound="(0, inf)", first="(0, inf)", momentum="[0, 1)")

    def build(self, context: Context) -> contracts.Aggregator:
        """The aggregator."""
        if self.voting == "dense":
            return self._folded()

        def bounded(xs, voters, weights, limit):
            counts = voters.sum(0, dtype=jnp.int32)
            far = blocks.distances(xs, [0.0] * len(xs))
            total = blocks.weighted_sums(_shrunk(far, limit, voters), xs)
            means = [x / jnp.maximum(counts, 1)[:, None].astype(x.dtype) for x in total]
            length = blocks.distances([x[None] for x in means], [0.0] * len(xs))[0]
            middle = order.median(far, voters, counts)
            factor, new = self._follow(limit, middle, length)
            clipped = (voters & (far > limit)).sum(0).astype(far.dtype)
            metrics = {"norm_bound": limit, "clipped": clipped}
            return [x * factor[:, None] for x in means], new, metrics

        def start(values):
            return jnp.full(len(values[0]), self._first(), values[0].dtype)

        rule = blocks.by_block(bounded, majority_tolerates, start)
        return ballots.buffered(rule, self.voting, self.share)

    def _folded(self) -> contracts.Aggregator:
        """The rule for dense voting, in the memory of one delta."""

        def sums(shared, cohort_size):
            each = jnp.zeros(cohort_size, fold.scalar(shared).dtype)
            return each, each

        def weigh(acc, deltas, weights, senders):
            lengths, present = rows.table_lengths(acc.total), weights > 0
            far = jnp.sqrt(fold.squared_norms(deltas, lengths).sum(-1))
            norms, voters = acc.sums
            slots = jnp.where(present, senders.slots, len(norms))
            norms = norms.at[slots].add(far, mode="drop")
            new = norms, voters.at[slots].add(1, mode="drop")
            return deltas, _shrunk(far, acc.memory, present), new

        def finish(acc, state, shared):
            norms, voters = acc.sums
            present = (voters > 0)[:, None]
            n = jnp.maximum(voters.sum(), 1)
            mean = jax.tree.map(lambda x: x / n, acc.total)
            length = jnp.sqrt(sum(jnp.square(x).sum() for x in jax.tree.leaves(mean)))
            counts = present.sum(0, dtype=jnp.int32)
            middle = order.median(norms[:, None], present, counts)[0]
            factor, new = self._follow(state, middle, length)
            clipped = (norms > state).sum().astype(n.dtype) / n
            info = {"norm_bound": state, "clipped_share": clipped}
            mean = jax.tree.map(lambda x: x * factor, mean)
            return mean, new, info

        def start(shared):
            return jnp.asarray(self._first(), fold.scalar(shared).dtype)

        return fold.fold(weigh, finish, sums, start=start, reads=lambda state: state)

    def _first(self) -> float:
        """The bound of the first round; infinite if none is known."""
        return self.bound or self.first or math.inf

    def _follow(self, limit: jax.Array, middle: jax.Array, length: jax.Array):
        """A factor of the clipped mean, and the bound of the next round.

        Args:
            limit: bound of the round.
            middle: median norm; 0 without voters.
            length: norm of the clipped mean.
        """
        if self.bound is not None:
            return jnp.ones_like(limit), limit
        finite = jnp.isfinite(limit)
        # Without a bound the mean is made no longer than most of the deltas.
        factor = jnp.minimum(1, middle / jnp.where(length > 0, length, 1))
        before = jnp.where(finite, limit, middle)
        new = self.momentum * before + (1 - self.momentum) * middle
        # A bound of 0 would zero every later update.
        return jnp.where(finite, 1, factor), jnp.where(middle > 0, new, limit)


def _shrunk(far: jax.Array, limit: jax.Array, voters: jax.Array) -> jax.Array:
    """`min(1, limit / far)` of the voters, 0 of other clients."""
    factor = jnp.minimum(1, limit / jnp.where(far > 0, far, 1))
    return jnp.where(voters, factor, 0)
