"""The rows of tables that a client touches in a round, before and after training."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core import row_ids, rows
from fedjax_rec.core.arrays import Array, Tree

Columns = dict[str, Array]


def touched_rows(tables: Tree, ids: Columns) -> Tree:
    """As `rows.gather`, with zeros for padding."""

    def take(table: rows.Table) -> rows.Table:
        values = table.values.at[ids[table.space]].get(mode="fill", fill_value=0)
        return dataclasses.replace(table, values=values)

    return rows.map_tables(take, tables)


def spaces_of(tree: Tree) -> set[str]:
    """The spaces of the tables of a tree."""
    return {table.space for table in rows.tables_of(tree)}


def touch(groups: Tree, pairs: Columns, merge: bool):
    """Ids of the local tables' rows `[R]`, and the pairs with row numbers as ids.

    Without `merge` the rows come in the order of the pairs, and their numbers are
    `None`: no row is gathered or scattered. With it, each row comes once, in ascending
    order; there are as many as pairs, but no more than the table has, and unused ones
    are padding.
    """
    ids: Columns = {}
    local: dict[str, Any] = dict(pairs)
    for table in rows.tables_of(groups):
        space, length = table.space, table.values.shape[0]
        if space in ids:
            continue
        touched = pairs[space]
        if not merge:
            ids[space], local[space] = touched, None
        else:
            numbers = local[space] = row_ids.places_in_order(touched, length)
            empty = jnp.full(min(len(numbers), length), length, jnp.int32)
            ids[space] = empty.at[numbers].set(touched, mode="drop")
    return ids, local


def delta_of(
    shared: Tree, start: Tree, trained: Tree, ids: dict[str, Array], merged: bool
) -> Tree:
    """Trained minus initial shared parameters, with rows of the tables."""

    def difference(table, before, after):
        if not rows.is_table(before):
            return after - before
        touched, values = ids[before.space], after.values - before.values
        change = rows.Rows(ids=touched, values=values, space=before.space)
        if not merged:
            return change
        length = table.values.shape[0]
        real = (touched < length).reshape(-1, *(1,) * (values.ndim - 1))
        values = jnp.where(real, values, 0)
        return dataclasses.replace(change, values=values, num_rows=length, ordered=True)

    before = {name: start[name] for name in shared}
    after = {name: trained[name] for name in shared}
    return jax.tree.map(difference, shared, before, after, is_leaf=rows.is_table)


def with_rows(
    personal: Tree, start: Tree, trained: Tree, ids: dict[str, Array], merged: bool
) -> Tree:
    """Personal parameters after training; of their tables, with the trained rows."""

    def put(whole, before, after):
        if not rows.is_table(whole):
            return after
        at = whole.values.at[ids[whole.space]]
        if merged:
            values = at.set(after.values, mode="drop")
        else:  # a repeated row took a part of the step at each place
            values = at.add(after.values - before.values, mode="drop")
        return dataclasses.replace(whole, values=values)

    before, after = ({n: tree[n] for n in personal} for tree in (start, trained))
    return jax.tree.map(put, personal, before, after, is_leaf=rows.is_table)
