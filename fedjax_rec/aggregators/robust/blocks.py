"""Rules that decide columns one by one, or blocks of decisions side by side."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.aggregators import fold
from fedjax_rec.aggregators.robust import order
from fedjax_rec.aggregators.robust.ballots import Ballots, RowBallots, Rule
from fedjax_rec.core.arrays import Array


def by_column(rule: Callable, tolerates: Callable) -> Rule:
    """A rule for columns, as `order.columnwise` takes it."""

    def joint(ballots: Ballots, state: Any):
        return order.coordinatewise(rule, ballots.deltas, ballots.voters), state, {}

    def by_row(table: RowBallots, state: Any):
        return order.columnwise(rule, table.x, table.voters), state, {}

    return Rule(joint, by_row, tolerates)


def by_block(
    rule: Callable, tolerates: Callable, start: Callable | None = None
) -> Rule:
    """A rule for blocks of decisions: on whole deltas one, on a table one per row.

    Args:
        rule: `(xs, voters [C, b], weights [C], state) -> (values, state, metrics)`, for
            `b` decisions on the concatenated vectors of the list `xs` `[C, b, p]`;
            `values` `[b, p]` like it. `metrics` are `[b]`; one named `clipped` counts
            votes, and only its share is reported for tables.
        tolerates: as in `Rule`.
        start: as in `Rule`.
    """

    def joint(ballots: Ballots, state: Any):
        leaves, structure = jax.tree.flatten(ballots.deltas)
        xs = [x.reshape(len(x), 1, -1) for x in leaves]
        present = ballots.voters[:, None]
        values, state, metrics = rule(xs, present, ballots.weights, state)
        delta = [v.reshape(x.shape[1:]) for v, x in zip(values, leaves, strict=True)]
        info = {name: x[0] for name, x in metrics.items()}
        if "clipped" in info:
            info["clipped_share"] = info.pop("clipped") / jnp.maximum(present.sum(), 1)
        return structure.unflatten(delta), state, info

    def by_row(table: RowBallots, state: Any):
        def block(x: Array, voters: Array, own: Any):
            return rule([x], voters, table.weights, own)

        values, state, metrics = order.rowwise(block, table.x, table.voters, state)
        clipped = metrics.get("clipped")
        info = {} if clipped is None else {"clipped_row_share": clipped.sum()}
        return values[0], state, info

    return Rule(joint, by_row, tolerates, start)


def weighted_sums(factors: Array, xs: Sequence[Array]) -> list[Array]:
    """`sum_c factors_c x_c` `[b, p]` of each `x` `[C, b, p]`, with factors `[C, b]`."""
    if factors.shape[1] > 1:
        return [(factors[:, :, None].astype(x.dtype) * x).sum(0) for x in xs]
    return [fold.dot(factors[:, 0].astype(x.dtype), x[:, 0])[None] for x in xs]


def distances(xs: Sequence[Array], centers: Sequence[Any]) -> Array:
    """Distances `[C, b]` of the concatenated vectors to their centers."""
    squares = [jnp.square(x - v).sum(-1) for x, v in zip(xs, centers, strict=True)]
    return jnp.sqrt(sum(squares[1:], squares[0]))
