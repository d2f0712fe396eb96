"""Aggregators that are a fold in constant memory: means and a sum."""

import dataclasses

import jax
import jax.numpy as jnp

from fedjax_rec.core import rows
from fedjax_rec.core.arrays import Array, Tree, struct
from fedjax_rec.core.contracts import Aggregator, Senders


@struct
class MeanState:
    """A running weighted sum.

    Attributes:
        total: like the shared parameters; tables as dense `[I, ...]` sums.
        weight: scalar, the summed weight of the clients so far.
        touched: `[I]` for each table of a per-row mean, else an empty tree.
    """

    total: Tree
    weight: Array
    touched: Tree


def weighted_mean(*, uniform: bool = False) -> Aggregator:
    """The mean of the clients' deltas; a row a client did not touch counts as zero.

    `sum_c n_c delta_c / sum_c n_c` (FedAvg, McMahan et al. 2017), with `n_c` the
    client's number of examples, or 1 if `uniform`.

    Args:
        uniform: every client of the cohort weighs the same.

    Returns:
        An aggregator in O(1) memory in the cohort.
    """
    return _fold(uniform=uniform, divide=True, per_row=False)


def per_row_mean(*, uniform: bool = False) -> Aggregator:
    """As `weighted_mean`, but each row is averaged over the clients that touched it.

    A rare item then moves as fast as a popular one.

    Args:
        uniform: every client weighs the same.

    Returns:
        An aggregator in O(1) memory in the cohort.
    """
    return _fold(uniform=uniform, divide=True, per_row=True)


def total() -> Aggregator:
    """The plain sum of the clients' deltas (FedMF, Chai et al. 2021)."""
    return _fold(uniform=True, divide=False, per_row=False)


def weighted_sum() -> Aggregator:
    """`sum_c w_c delta_c`, for rules that divide by something else."""
    return _fold(uniform=False, divide=False, per_row=False)


def _fold(*, uniform: bool, divide: bool, per_row: bool) -> Aggregator:
    def init(shared: Tree, cohort_size: int) -> MeanState:
        del cohort_size
        first = jax.tree.leaves(shared)[0]
        touched = {}
        if per_row:
            tables, _ = rows.split_tables(shared)
            touched = rows.map_tables(
                lambda t: jnp.zeros(t.values.shape[0], first.dtype), tables
            )
        return MeanState(
            total=jax.tree.map(jnp.zeros_like, shared),
            weight=jnp.zeros((), first.dtype),
            touched=touched,
        )

    def update(
        acc: MeanState, deltas: Tree, weights: Array, senders: Senders
    ) -> MeanState:
        del senders
        if uniform:
            weights = (weights > 0).astype(weights.dtype)

        def add(total, delta):
            if rows.is_rows(delta):
                values = rows.scatter_add(total.values, delta, weights)
                return dataclasses.replace(total, values=values)
            return total + jnp.tensordot(weights, delta, 1).astype(total.dtype)

        def count(table, seen, delta):
            return seen + rows.count_touched(table.values.shape[0], delta, weights)

        touched = acc.touched
        if per_row:
            tables, _ = rows.split_tables(acc.total)
            row_deltas = jax.tree.map(
                lambda d: d if rows.is_rows(d) else None, deltas, is_leaf=rows.is_rows
            )
            touched = rows.map_tables(count, tables, acc.touched, row_deltas)
        total_ = jax.tree.map(add, acc.total, deltas, is_leaf=rows.is_table)
        return MeanState(
            total=total_, weight=acc.weight + weights.sum(), touched=touched
        )

    def finish(acc: MeanState, state: Tree, shared: Tree):
        del shared
        return averaged(acc), state, {}

    def averaged(acc: MeanState) -> Tree:
        if not divide:
            return acc.total

        def over(x, weight):
            return x / jnp.where(weight > 0, weight, 1)

        if not per_row:
            return jax.tree.map(lambda x: over(x, acc.weight), acc.total)
        tables, dense = rows.split_tables(acc.total)

        def per_touch(table, seen):
            if not table.per_row:
                seen = acc.weight
            else:
                seen = seen.reshape(seen.shape + (1,) * (table.values.ndim - 1))
            return dataclasses.replace(table, values=over(table.values, seen))

        tables = rows.map_tables(per_touch, tables, acc.touched)
        dense = jax.tree.map(lambda x: over(x, acc.weight), dense)
        return rows.merge_tables(tables, dense)

    return Aggregator(init, update, finish, linear=True)
