"""Rules that compare voters in pairs, at a cost in the square of their number.

Most rows of a table have few voters. Rows are sorted by their number of voters into a
few sizes; each size is one loop over batches of rows, with a trip count read on the
device, in which the voters of a row are gathered side by side. So a row of `v` voters
costs at most `(2 v)^2 d` under a rule that costs `C^2 d`, and an untouched row is free.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import voting
from fedjax_rec.aggregators.robust.ballots import Ballots, RowBallots, Rule
from fedjax_rec.core.arrays import Array, Tree

PAIRS = 2**18
"""Pairs of voters in a batch of rows, 1 MB of float32: about a core's cache. A row of
more than `sqrt(PAIRS)` voters is a batch of its own."""

SMALLEST = 32
"""Smallest size with room for more voters; a further size costs compile time."""


def by_pairs(
    name: str,
    rule: Callable[[Tree, Array, Array, Array, bool], tuple[Tree, dict[str, Array]]],
    share: float,
    each: int,
) -> Rule:
    """A rule from squared distances that needs `each f + 3` voters for `f` attackers.

    Args:
        name: name of the rule, for messages.
        rule: `(deltas [k, ...], squared [k, k], voters [k], f, by_row)` to the delta
            and metrics; the metrics of rows are not reported.
        share: assumed share of attackers.
        each: voters that the rule needs for an attacker.
    """
    tolerates = voting.few_tolerate(share, each)

    def joint(ballots: Ballots, state: Any):
        f = voting.assumed_attackers(ballots.voters.sum(dtype=jnp.int32), share)
        squared = squared_distances(ballots.deltas)
        delta, info = rule(ballots.deltas, squared, ballots.voters, f, False)
        return delta, state, info

    def by_row(table: RowBallots, state: Any):
        def row(x: Array, voters: Array) -> Array:
            f = tolerates(voters.sum(dtype=jnp.int32))
            return rule(x, squared_distances(x, 1), voters, f, True)[0]

        return row_by_row(row, table), state, {}

    check = functools.partial(voting.check_cohort, name, share, each)
    return Rule(joint, by_row, tolerates, check=check)


def squared_distances(deltas: Tree, strips: int = 4) -> Array:
    """Squared distances `[C, C]` between the clients' deltas, 0 on the diagonal.

    From the Gram matrix, `|x|^2 + |y|^2 - 2 x y`; rounding leaves an error of about
    `1e-7 (|x|^2 + |y|^2)` in float32. Distances that overflow are infinite.

    Args:
        deltas: leaves `[C, ...]`.
        strips: strips of the product, each only right of its diagonal: 4 take `1.25 C^2
            P` operations of `2 C^2 P`, and longer to compile.
    """
    arrays = [x.reshape(len(x), -1) for x in jax.tree.leaves(deltas)]
    gram = sum((_gram(x, strips) for x in arrays[1:]), _gram(arrays[0], strips))
    norms = jnp.diagonal(gram)
    distances = norms[:, None] + norms[None] - 2 * gram
    distances = jnp.where(jnp.isnan(distances), jnp.inf, jnp.maximum(distances, 0))
    return jnp.where(jnp.eye(len(norms), dtype=bool), 0, distances)


def _gram(x: Array, strips: int) -> Array:
    """`x x^T` of `[C, P]`, exactly symmetric."""
    c = len(x)
    size = max(1, -(-c // strips))
    precision, products = jax.lax.Precision.HIGHEST, []
    for first in range(0, c, size):
        strip = jnp.matmul(x[first : first + size], x[first:].T, precision=precision)
        products.append(jnp.pad(strip, ((0, 0), (first, 0))))
    upper = jnp.triu(jnp.concatenate(products))
    return upper + jnp.triu(upper, 1).T


def sizes(cohort_size: int) -> tuple[int, ...]:
    """Numbers of voters with room in a batch: halves of `C`, down to `SMALLEST`.

    >>> sizes(100)
    (25, 50, 100)
    """
    result = [cohort_size]
    while result[-1] > SMALLEST:
        result.append(-(-result[-1] // 2))
    return tuple(reversed(result))


def row_by_row(
    rule: Callable[[Array, Array], Array], table: RowBallots, *, ballots: bool = False
) -> Array:
    """Applies a rule for one row's voters to each row of a table.

    Args:
        rule: `(x [k, d], voters [k] bool) -> [d]`, or `[k, d]` with `ballots`; at least
            one votes.
        table: the votes.
        ballots: the rule replaces the ballot of each voter.

    Returns:
        `[I, d]`, zero on rows without voters; with `ballots` `[C, I, d]`, zero for
        clients without a vote.
    """
    c, num_rows = table.voters.shape
    room = sizes(c)
    size = jnp.searchsorted(jnp.asarray(room), table.counts).astype(jnp.int32)
    size = jnp.where(table.counts > 0, size, len(room))
    order = jnp.argsort(size).astype(jnp.int32)
    of_size = jnp.zeros(len(room) + 1, jnp.int32).at[size].add(1)
    firsts = jnp.cumsum(of_size) - of_size
    result = jnp.zeros_like(table.x if ballots else table.x[0])
    for g, k in enumerate(room):
        batch = max(1, min(PAIRS // k**2, num_rows))

        def step(i, result, g=g, k=k, batch=batch):
            within = i * batch + jnp.arange(batch, dtype=jnp.int32)
            row = order.at[firsts[g] + within].get(mode="clip")
            row = jnp.where(within < of_size[g], row, num_rows)  # `I` is padding
            votes = table.voters.at[:, row].get(mode="fill", fill_value=False)
            # Voters first, in the order of their slots; `C` is padding.
            slots = jnp.argsort(~votes, axis=0, stable=True)[:k].T.astype(jnp.int32)
            present = jnp.arange(k) < votes.sum(0)[:, None]
            slots = jnp.where(present, slots, c)
            x = table.x.at[slots, row[:, None]].get(mode="fill", fill_value=0)
            target = (slots, row[:, None]) if ballots else row
            return result.at[target].set(jax.vmap(rule)(x, present), mode="drop")

        trips = (of_size[g] + batch - 1) // batch
        result = jax.lax.fori_loop(0, trips, step, result)
    return result
