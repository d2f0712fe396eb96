"""Bulyan: clients chosen by Krum one by one, then a mean around the median."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    assumed_attackers,
    buffered,
    check_share,
)
from fedjax_rec.aggregators.robust.breakdown import few_tolerate
from fedjax_rec.aggregators.robust.few_voters import pairwise_squared, row_by_row
from fedjax_rec.aggregators.robust.row_ballots import vote
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def bulyan(
    *,
    share: float = 0.1,
    voting: Voting = "dense",
    attackers: float | None = None,
) -> Aggregator:
    """Krum chooses `n - 2 f` clients, each coordinate averages the middle of them.

    The client that Krum would take is set aside, Krum is asked again among the rest,
    and so on `theta = n - 2 f` times; with `m` left, a score sums the squared distances
    to the `m - f - 2` nearest, and to at least one. Then every coordinate is the mean
    of the `theta - 2 f` chosen numbers nearest to their median; equally near ones share
    the last places. With share 0 it is the uniform mean. Memory: `ballot_bytes`, and
    `5 C^2` numbers at the end; its time grows with `C^3`.

    With `voting` by some, every row of a table is joined so among its own voters, and
    the other leaves together. Bulyan stands `f` of `4 f + 3` voters; among fewer,
    `f = (v - 3) // 4` are assumed, and a row of up to six voters is their mean. Time
    grows with the sum of `v^3` over the rows: for cohorts of some hundred.

    Args:
        share: assumed share of attackers, `f = floor(share n)`.
        voting: who votes on a row of a table.
        attackers: share of attackers for the report; by default `share`.

    Returns:
        An aggregator of one vote a client. `info` holds `breakdown.row_report` where
        only some vote on a row.

    Raises:
        ValueError: `share` is not in `[0, 0.25)` or `attackers` not in `[0, 0.5)`; a
            cohort is so small that `n >= 4 f + 3` is broken when all of it is present.

    References:
        El Mhamdi et al., The Hidden Vulnerability of Distributed Learning in
        Byzantium, ICML 2018, algorithm 2.
    """
    check_share(share, below=0.25)
    attackers = share if attackers is None else attackers
    check_share(attackers)
    tolerates = few_tolerate(share, 4)

    def check(cohort_size: int) -> None:
        f = int(share * cohort_size + 1e-4)
        if cohort_size < 4 * f + 3:
            raise ValueError(
                f"Bulyan with share {share:g} assumes f = {f} attackers among "
                f"{cohort_size} clients, and needs at least 4 f + 3 = {4 * f + 3}: "
                "enlarge the cohort or lower share"
            )

    def whole(ballots: Ballots):
        present = ballots.voters
        n = present.sum(dtype=jnp.int32)
        squared = distances.pairwise_squared(ballots.deltas)
        f = assumed_attackers(n, share)
        return joined(ballots.deltas, squared, present, f), {}

    def row(x: Array, voters: Array) -> Array:
        f = tolerates(voters.sum(dtype=jnp.int32))
        return joined(x, pairwise_squared(x), voters, f)

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        delta, info = vote(
            ballots,
            shared,
            voting,
            whole,
            lambda table: row_by_row(row, table),
            tolerates,
            attackers,
        )
        return delta, state, info

    return buffered(finish, voting=voting, check=check)


def joined(deltas: Tree, squared: Array, present: Array, f: Array) -> Tree:
    """Bulyan of some clients' deltas.

    Args:
        deltas: leaves `[C, ...]`.
        squared: `[C, C]`, their squared distances.
        present: `[C]` bool.
        f: int32 scalar, assumed attackers.
    """
    n = present.sum(dtype=jnp.int32)
    chosen = choose(squared, present, f, n - 2 * f)

    def rule(x, voters, counts):
        return around_median(x, voters, counts, jnp.maximum(n - 4 * f, 1))

    return jax.tree.map(lambda x: order.columnwise(rule, x[:, None], chosen)[0], deltas)


def choose(squared: Array, present: Array, f: Array, num: Array) -> Array:
    """Who Krum sets aside in `num` rounds.

    Distances are sorted once. A client's neighbours are then the first of its row that
    are still there; each round takes one away and asks for one fewer.

    Args:
        squared: `[C, C]`.
        present: `[C]` bool.
        f: int32 scalar, assumed attackers.
        num: int32 scalar, at most the present clients.

    Returns:
        `[C]` bool.
    """
    c = len(present)
    places = jnp.arange(c, dtype=jnp.int32)
    # A client is no neighbour of its own, and absent ones are nobody's.
    there = present[None] & (places[:, None] != places[None])
    # What overflowed is far, and yet before those who are not there.
    finite = jnp.minimum(squared, jnp.finfo(squared.dtype).max)
    far = jnp.where(there, finite, jnp.inf)
    _, who = jax.lax.sort_key_val(far, jnp.broadcast_to(places, (c, c)))
    sorted_far = jnp.take_along_axis(far, who, axis=1)
    place = jnp.zeros_like(who).at[places[:, None], who].set(places[None])
    alive = jnp.take_along_axis(there, who, axis=1)
    n = present.sum(dtype=jnp.int32)

    def step(i, carry):
        left, alive, last = carry
        within = alive & (places[None] <= last[:, None])
        score = jnp.where(within, sorted_far, 0).sum(1)
        score = jnp.minimum(score, jnp.finfo(score.dtype).max)
        taken = jnp.where(left, score, jnp.inf).argmin()
        at = place[:, taken]
        new_alive = alive.at[places, at].set(False)
        few = n - i - f - 2 <= 1
        before = jnp.where(new_alive & (places[None] < last[:, None]), places[None], -1)
        after = jnp.where(new_alive & (places[None] > last[:, None]), places[None], c)
        # Without one of its neighbours a client has one fewer, as it should; without
        # another client it gives up its farthest. Of a last one it looks for the next.
        lost_inside = at < last
        fewer = jnp.where(lost_inside & (place[:, taken] != last), last, before.max(1))
        same = jnp.where(at == last, after.min(1), last)
        return left.at[taken].set(False), new_alive, jnp.where(few, same, fewer)

    num_near = jnp.clip(n - f - 2, 1, jnp.maximum(n - 1, 1))
    last = jnp.broadcast_to(num_near - 1, (c,))
    left, _, _ = jax.lax.fori_loop(0, num, step, (present, alive, last))
    return present & ~left


def around_median(x: Array, voters: Array, counts: Array, keep: Array) -> Array:
    """The mean of the `keep` numbers of each column that are nearest to its median.

    Args:
        x: `[C, P]`.
        voters: `[C, P]` or `[C, 1]` bool.
        counts: `[P]` or `[1]` int32, the voters.
        keep: int32 scalar, at most `counts`.
    """
    middle = order.median(x, voters, counts)
    near = order.smallest(jnp.abs(x - middle), voters, keep[None])
    mean = jnp.where(near > 0, near * x, 0).sum(0) / keep.astype(x.dtype)
    return jnp.where(counts > 0, mean, 0)
