"""Bulyan: clients chosen by Krum one by one, then a mean around the median."""

from __future__ import annotations

import dataclasses

from etils import epy

from fedjax_rec.aggregators.robust.voting import ByVotes
from fedjax_rec.core.checks import check_settings
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
                return around_median(x, voters, counts, jnp.maximum(n - 4 * f, 1))

            return order.coordinatewise(column, deltas, chosen), {}

        by_pairs = pairs.by_pairs("Bulyan", rule, self.share, 4)
        return ballots.buffered(by_pairs, self.voting, self.share, self.attackers)


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


def around_median(
    x: jax.Array, voters: jax.Array, counts: jax.Array, keep: jax.Array
) -> jax.Array:
    """The mean of the `keep` numbers of each column that are nearest to its median.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        counts: `[P]` or `[1]` int32, the number of voters.
        keep: int32 scalar, at most `counts`.
    """
    middle = order.median(x, voters, counts)
    near = order.smallest(jnp.abs(x - middle), voters, keep[None])
    mean = jnp.where(near > 0, near * x, 0).sum(0) / keep.astype(x.dtype)
    return jnp.where(counts > 0, mean, 0)
