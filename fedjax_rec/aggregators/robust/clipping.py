"""Centered clipping: nobody moves the last aggregate far."""

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators.robust import distances, order
from fedjax_rec.aggregators.robust.ballots import Ballots, buffered
from fedjax_rec.types import Aggregator, Tree


def centered_clipping(*, radius: float | None = None, steps: int = 1) -> Aggregator:
    """The last aggregate, moved by the mean of the clipped differences to it.

    `v <- v + 1/n sum_c (delta_c - v) min(1, tau / |delta_c - v|)`, `steps` times, from
    the last round's `v`, which the server keeps and which is zero at first. Memory:
    `ballot_bytes`, and one delta between rounds.

    Args:
        radius: `tau`, in the unit of the deltas; by default the median distance to `v`
            at each step, which fewer than half of the clients cannot choose. The
            published rule has a constant.
        steps: of clipping, each from where the last one ended.

    Returns:
        An aggregator of one vote a client; `info` holds the last `clip_radius` and the
        `clipped_share` of the clients.

    Raises:
        ValueError: `radius` is negative or `steps` not positive.

    References:
        Karimireddy, He and Jaggi, Learning from History for Byzantine Robust
        Optimization, ICML 2021, algorithm 2.
    """
    if steps < 1 or (radius is not None and radius < 0):
        raise ValueError(
            f"steps must be at least 1 and radius not negative, got {steps} and "
            f"{radius}"
        )

    def finish(ballots: Ballots, state: Tree, shared: Tree):
        del shared
        present = ballots.voters
        vote = present.astype(ballots.weights.dtype)
        n = present.sum(dtype=jnp.int32)

        def step(_, carry):
            v, _, _ = carry
            far = jnp.sqrt(distances.squared_to(ballots.deltas, v))
            if radius is None:
                tau = order.median(far[:, None], present[:, None], n[None])[0]
            else:
                tau = jnp.asarray(radius, far.dtype)
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
        return v, v, {"clip_radius": tau, "clipped_share": clipped}

    return buffered(finish, start=lambda shared: jax.tree.map(jnp.zeros_like, shared))
