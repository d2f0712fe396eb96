"""Rules that compare all voters of a row with each other, at a cost of their number.

Most rows have few voters. Rows are sorted by how many they have; each of some sizes is
one loop over batches of rows, with a trip count read on the device, in which the voters
of a row are gathered side by side. So a row of `v` voters costs at most `(2 v)^2 d` of
a rule that takes `C^2 d`, and a row that nobody touched costs nothing.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances
from fedjax_rec.aggregators.robust.row_ballots import RowBallots
from fedjax_rec.core.arrays import Array

T = TypeVar("T")

PAIRS = 2**18
"""Pairs of voters in a batch of rows, 1 MB of float32: about a core's cache. A row of
more than `sqrt(PAIRS)` voters is a batch of its own."""

SMALLEST = 32
"""Voters for which there is room at least: another size costs compile time."""


def sizes(cohort_size: int) -> tuple[int, ...]:
    """For how many voters there is room: halves of `C`, down to `SMALLEST`.

    >>> sizes(100)
    (25, 50, 100)
    """
    found = [cohort_size]
    while found[-1] > SMALLEST:
        found.append(-(-found[-1] // 2))
    return tuple(reversed(found))


def row_by_row(rule: Callable[[Array, Array], Array], ballots: RowBallots) -> Array:
    """Applies a rule of one row's voters to each row of a table.

    Args:
        rule: `(x [k, d], voters [k] bool) -> [d]`, with at least one voter.
        ballots: of the table.

    Returns:
        `[I, d]`, zero where nobody voted.
    """

    def visit(out, row, who, x, voters):
        del who
        return out.at[row].set(jax.vmap(rule)(x, voters), mode="drop")

    return _fold(visit, jnp.zeros(ballots.x.shape[1:], ballots.x.dtype), ballots)


def ballot_by_ballot(
    rule: Callable[[Array, Array], Array], ballots: RowBallots
) -> Array:
    """As `row_by_row`, of a rule that gives each voter another ballot.

    Args:
        rule: `(x [k, d], voters [k] bool) -> [k, d]`.
        ballots: of the table.

    Returns:
        `[C, I, d]`, zero for who did not vote.
    """

    def visit(out, row, who, x, voters):
        new = jax.vmap(rule)(x, voters)
        return out.at[who, row[:, None]].set(new, mode="drop")

    return _fold(visit, jnp.zeros_like(ballots.x), ballots)


def pairwise_squared(x: Array) -> Array:
    """`distances.pairwise_squared` of one narrow row `[k, d]`: `k^2 d` operations.

    One product instead of four strips, for less to compile; exactly symmetric.
    """
    gram = jnp.triu(jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST))
    return distances.from_gram(gram + jnp.triu(gram, 1).T)


def _fold(visit: Callable[..., T], carry: T, ballots: RowBallots) -> T:
    """Folds `(carry, row [b], who [b, k], x [b, k, d], voters [b, k])` over the rows.

    What is past the end has a row number of `I`, or a client's of `C`.
    """
    x, voters, counts = ballots
    c, num_rows = voters.shape
    room = sizes(c)
    size = jnp.searchsorted(jnp.asarray(room), counts).astype(jnp.int32)
    size = jnp.where(counts > 0, size, len(room))
    order = jnp.argsort(size).astype(jnp.int32)
    of_size = jnp.zeros(len(room) + 1, jnp.int32).at[size].add(1)
    firsts = jnp.cumsum(of_size) - of_size
    for g, k in enumerate(room):
        batch = max(1, min(PAIRS // k**2, num_rows))

        def step(i, carry, g=g, k=k, batch=batch):
            within = i * batch + jnp.arange(batch, dtype=jnp.int32)
            row = order.at[firsts[g] + within].get(mode="clip")
            row = jnp.where(within < of_size[g], row, num_rows)
            of = voters.at[:, row].get(mode="fill", fill_value=False)
            # Voters first, in the order of their slots.
            who = jnp.argsort(~of, axis=0, stable=True)[:k].T.astype(jnp.int32)
            there = jnp.arange(k) < of.sum(0)[:, None]
            who = jnp.where(there, who, c)
            mine = x.at[who, row[:, None]].get(mode="fill", fill_value=0)
            return visit(carry, row, who, mine, there)

        trips = (of_size[g] + batch - 1) // batch
        carry = jax.lax.fori_loop(0, trips, step, carry)
    return carry
