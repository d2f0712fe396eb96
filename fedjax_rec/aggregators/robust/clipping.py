"""Centered clipping: nobody moves the last aggregate far."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import (
    Ballots,
    Voting,
    buffered,
    check_share,
)
from fedjax_rec.aggregators.robust.breakdown import majority_tolerates, row_report
from fedjax_rec.aggregators.robust.coordinates import diluted
from fedjax_rec.aggregators.robust.row_ballots import (
    joint,
    row_ballots,
    row_values,
    with_rows,
)
from fedjax_rec.core.arrays import Array, Tree
from fedjax_rec.core.contracts import Aggregator


def centered_clipping(
    *,
    radius: float | None = None,
    steps: int = 1,
    voting: Voting = "dense",
    share: float = 0.1,
) -> Aggregator:
    """The last aggregate, moved by the mean of the clipped differences to it.

    `v <- v + 1/n sum_c (delta_c - v) min(1, tau / |delta_c - v|)`, `steps` times, from
    the last round's `v`, which the server keeps and which is zero at first. Memory:
    `ballot_bytes`, and one delta between rounds.

    With `voting` by some, each row of a table has a `v`, a `tau` and a mean of its own,
    over the clients that touched it. A row that nobody touched keeps its `v` for the
    next time and does not move. Under `diluted` the server keeps the undiluted `v`.

    Args:
        radius: `tau`, in the unit of the deltas; by default the median distance to `v`
            at each step, which fewer than half of the clients cannot choose. The
            published rule has a constant.
        steps: of clipping, each from where the last one ended.
        voting: who votes on a row of a table.
        share: assumed share of attackers, of which only the report makes use.

    Returns:
        An aggregator of one vote a client; `info` holds the last `clip_radius` and the
        `clipped_share` of the clients, as far as they vote jointly. Where only some
        vote on a row, it holds the `clipped_row_share` of the votes on rows, and
        `breakdown.row_report`: with the median as radius a row stands fewer attackers
        than half of its voters. A given radius bounds what they do even then.

    Raises:
        ValueError: `radius` is negative, `steps` not positive, or `share` not in
            `[0, 0.5)`.

    References:
        Karimireddy, He and Jaggi, Learning from History for Byzantine Robust
        Optimization, ICML 2021, algorithm 2.
    """
    check_share(share)
    if steps < 1 or (radius is not None and radius < 0):
        raise ValueError(
            f"steps must be at least 1 and radius not negative, got {steps} and "
            f"{radius}"
        )

    def limit(far: Array, voters: Array, counts: Array) -> Array:
        if radius is None:
            return order.median(far, voters, counts)
        return jnp.full(far.shape[1:], radius, far.dtype)

    def whole(ballots: Ballots, state: Tree) -> tuple[Tree, dict[str, Array]]:
        present = ballots.voters
        vote = present.astype(ballots.weights.dtype)
        n = present.sum(dtype=jnp.int32)

        def step(_, carry):
            v, _, _ = carry
            far = jnp.sqrt(distances.squared_to(ballots.deltas, v))
            tau = limit(far[:, None], present[:, None], n[None])[0]
            factor = vote * jnp.minimum(1, tau / jnp.where(far > 0, far, 1))
            weights = factor / jnp.maximum(n, 1)
            stay = 1 - weights.sum()
            moved = jax.tree.map(
                lambda old, x: stay * old + jnp.tensordot(weights, x, 1),
                v,
                ballots.deltas,
            )
            clipped = (vote * (far > tau)).sum() / jnp.maximum(n, 1)
            return moved, tau, clipped

        zero = jnp.zeros((), ballots.weights.dtype)
        v, tau, clipped = jax.lax.fori_loop(0, steps, step, (state, zero, zero))
        return v, {"clip_radius": tau, "clipped_share": clipped}

    def row_block(x: Array, voters: Array, v: Array) -> Array:
        """`[b, d + 1]`: new `v`, and how many of the last differences were clipped."""
        counts = voters.sum(0, dtype=jnp.int32)

        def step(_, carry):
            v, _ = carry
            moves = x - v
            far = jnp.sqrt(jnp.square(moves).sum(-1))
            tau = limit(far, voters, counts)
            factor = jnp.minimum(1, tau / jnp.where(far > 0, far, 1))
            weights = jnp.where(voters, factor, 0) / jnp.maximum(counts, 1)
            moved = v + (weights[:, :, None] * moves).sum(0)
            return moved, (voters & (far > tau)).sum(0).astype(x.dtype)

        start = (v, jnp.zeros(v.shape[:1], x.dtype))
        v, clipped = jax.lax.fori_loop(0, steps, step, start)
        return jnp.concatenate([v, clipped[:, None]], 1)

    def by_row(ballots: Ballots, state: Tree, shared: Tree):
        tables = row_ballots(ballots)
        kept, moved, clipped = [], [], jnp.zeros((), ballots.weights.dtype)
        for table, v in zip(tables, row_values(state), strict=True):
            found = order.rowwise(row_block, table.x, table.voters, v)
            new, cut = found[:, :-1], found[:, -1]
            kept.append(new)
            out = jnp.where(table.counts[:, None] > 0, new, 0)
            if voting == "diluted":
                out = diluted(out, table.counts, ballots.voters)
            moved.append(out)
            clipped = clipped + cut.sum()
        rest, info = joint(state), {}
        if jax.tree.leaves(rest):
            part = dataclasses.replace(ballots, deltas=joint(ballots.deltas))
            rest, info = whole(part, rest)
        counts = [table.counts for table in tables]
        report = row_report(counts, majority_tolerates, share, len(ballots.weights))
        votes = sum((n.sum() for n in counts), jnp.int32(0))
        told = {"clipped_row_share": clipped / jnp.maximum(votes, 1)}
        delta, state = (with_rows(shared, rest, x) for x in (moved, kept))
        return delta, state, {**info, **(told if tables else {}), **report}

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        if voting != "dense":
            return by_row(ballots, state, shared)
        v, info = whole(ballots, state)
        return v, v, info

    return buffered(
        finish,
        voting=voting,
        start=lambda shared: jax.tree.map(jnp.zeros_like, shared),
    )
