"""Row tables: a client reads and sends only the rows it touches.

A client that saw 40 of 100,000 items needs 40 rows. `gather` makes a small table of
them, the client sends `Rows`, and the server adds these by `scatter_add`. Padding ids,
equal to the number of rows of the table, are dropped.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_rec.core.arrays import Array, Tree, static, struct
from fedjax_rec.core.row_ids import first_occurrence, places_in_order


@struct
class Table:
    """A trainable leaf with one row per item (or user).

    Attributes:
        values: `[I, ...]`.
        space: the batch field with the ids of the rows (`"item"`, `"user"`).
        per_row: whether a per-row mean may divide a row by the clients that touched it.
    """

    values: Array
    space: str = static(default="item")
    per_row: bool = static(default=True)


@struct
class Rows:
    """Rows to be added to a table. Repeated ids add up.

    Attributes:
        ids: `[R]` int32; padding equals the table's length.
        values: `[R, ...]`.
        space: as in `Table`.
        num_rows: the table's length, for readers that have to recognise padding.
        ordered: ids ascend, each once, and padding comes last with zeros.
    """

    ids: Array
    values: Array
    space: str = static(default="item")
    num_rows: int | None = static(default=None)
    ordered: bool = static(default=False)


def is_table(leaf: Tree) -> bool:
    """Whether `leaf` is a `Table` (for `is_leaf`)."""
    return isinstance(leaf, Table)


def is_rows(leaf: Tree) -> bool:
    """Whether `leaf` is a `Rows` (for `is_leaf`)."""
    return isinstance(leaf, Rows)


def tables_of(tree: Tree) -> list[Table]:
    """The tables among the leaves, in order."""
    leaves = jax.tree.leaves(tree, is_leaf=is_table)
    return [leaf for leaf in leaves if is_table(leaf)]


def table_lengths(shared: Tree) -> tuple[int, ...]:
    """`I` of each table among the leaves, in order; 0 for a dense leaf."""
    leaves = jax.tree.leaves(shared, is_leaf=is_table)
    return tuple(x.values.shape[0] if is_table(x) else 0 for x in leaves)


def lookup(table: Any, ids: Array | None) -> Array:
    """Rows of a `Table` (or `RowsAt`) at `ids`; `None` means every row, in order.

    In local training a batch's rows are gathered in its order, and its ids are `None`:
    the gradient with respect to them is then dense and small.
    """
    if ids is None:
        return table.values
    return table.values[ids] if is_table(table) else table.lookup(ids)


def map_tables(fn, tree: Tree, *rest: Tree) -> Tree:
    """Applies `fn` to every `Table` of `tree` (and of `rest`); keeps other leaves."""
    return jax.tree.map(
        lambda leaf, *others: fn(leaf, *others) if is_table(leaf) else leaf,
        tree,
        *rest,
        is_leaf=lambda x: is_table(x) or is_rows(x),
    )


def map_values(fn, delta: Tree, *others: Tree) -> Tree:
    """`fn` of dense leaves and of the values of `Rows`, not of their ids.

    Several deltas have to touch the same rows in the same order.
    """

    def leaf(x, *xs):
        if is_rows(x):
            values = fn(x.values, *(other.values for other in xs))
            return dataclasses.replace(x, values=values)
        return fn(x, *xs)

    return jax.tree.map(leaf, delta, *others, is_leaf=is_rows)


def values_of(delta: Tree) -> list[Array]:
    """The arrays of a delta in order, with zeros in padding rows.

    >>> import jax.numpy as jnp
    >>> sent = Rows(ids=jnp.array([2, 5]), values=jnp.array([1.0, 7.0]), num_rows=5)
    >>> [x.tolist() for x in values_of({"item": sent})]
    [[1.0, 0.0]]
    """

    def leaf(x: Any) -> Array:
        if not is_rows(x):
            return x
        if x.num_rows is None:
            return x.values
        real = (x.ids < x.num_rows).reshape(-1, *(1,) * (x.values.ndim - 1))
        return jnp.where(real, x.values, 0)

    return [leaf(x) for x in jax.tree.leaves(delta, is_leaf=is_rows)]


def split_tables(tree: Tree) -> tuple[Tree, Tree]:
    """`(tables, dense)`: the same structure, with `None` for the other kind of leaf."""
    tables = jax.tree.map(
        lambda leaf: leaf if is_table(leaf) else None, tree, is_leaf=is_table
    )
    return tables, map_tables(lambda _: None, tree)


def merge_tables(tables: Tree, dense: Tree) -> Tree:
    """Undoes `split_tables`."""
    return jax.tree.map(
        lambda table, leaf: leaf if table is None else table,
        tables,
        dense,
        is_leaf=lambda x: x is None or is_table(x),
    )


def gather(tree: Tree, ids: Mapping[str, Array | None]) -> Tree:
    """Restricts every table to the rows `ids[table.space]` `[R]` (clipped).

    `None` is every row, in order.
    """

    def restrict(table: Table) -> Table:
        if (index := ids[table.space]) is None:
            return table
        values = table.values.at[index].get(mode="clip")
        return dataclasses.replace(table, values=values)

    return map_tables(restrict, tree)


def merge_repeats(rows: Rows, num_rows: int) -> Rows:
    """The same rows, each once with the sum of its values, in ascending order.

    As in `row_ids.first_occurrence`, the cost does not grow with the catalog.

    Args:
        rows: `ids` `[R]`, `values` `[R, ...]`.
        num_rows: length of the table; the padding id.

    Returns:
        `[R]` rows with `num_rows` and `ordered`, padded at the end.

    >>> import jax.numpy as jnp
    >>> merged = merge_repeats(Rows(ids=jnp.array([7, 3, 7, 9]), values=jnp.ones(4)), 9)
    >>> merged.ids.tolist(), merged.values.tolist()
    ([3, 7, 9, 9], [1.0, 2.0, 0.0, 0.0])
    """
    if rows.ordered:
        return dataclasses.replace(rows, num_rows=num_rows)
    ids = jnp.where(rows.ids < num_rows, rows.ids, num_rows)
    index = places_in_order(ids, num_rows)
    return dataclasses.replace(
        rows,
        ids=jnp.full_like(ids, num_rows).at[index].set(ids, mode="drop"),
        values=jnp.zeros_like(rows.values).at[index].add(rows.values, mode="drop"),
        num_rows=num_rows,
        ordered=True,
    )


def places_of(ids: Array, rows: Rows) -> Array:
    """Positions of `ids` among `rows`.

    As in `row_ids.first_occurrence`, the cost does not grow with the catalog.

    Args:
        ids: `[Q]` int32; padding is `rows.num_rows`.
        rows: `[R]`, each once, with `num_rows`.

    Returns:
        `[Q]` int32; `R` for padding and for absent ids.

    >>> rows = Rows(ids=jnp.array([3, 7, 9]), values=jnp.ones(3), num_rows=9)
    >>> places_of(jnp.array([7, 2, 9, 3]), rows).tolist()
    [1, 3, 3, 0]
    """
    (r,), num_rows = rows.ids.shape, rows.num_rows
    assert num_rows is not None
    position = jnp.arange(r, dtype=jnp.int32)
    if num_rows <= 16 * r:
        table = jnp.full(num_rows, r, jnp.int32).at[rows.ids].set(position, mode="drop")
        return table.at[ids].get(mode="fill", fill_value=r)
    ascending = rows.ids
    if not rows.ordered:
        ascending, position = jax.lax.sort((ascending, position), num_keys=1)
    index = jnp.searchsorted(ascending, ids, method="scan_unrolled")
    present = (ids < num_rows) & (ascending.at[index].get(mode="clip") == ids)
    return jnp.where(present, position.at[index].get(mode="clip"), r)


def scatter_add(table: Array, rows: Rows, scale: Array | None = None) -> Array:
    """Adds rows (any leading axes) into the dense `[I, ...]` array `table`.

    Args:
        table: `[I, ...]`.
        rows: `ids` `[..., R]`, `values` `[..., R, ...]`.
        scale: `[...]`, one factor for each leading index, or `None`.

    Returns:
        `[I, ...]`; ids equal to `I` are ignored.
    """
    values = rows.values
    if scale is not None:
        values = values * scale.reshape(scale.shape + (1,) * (values.ndim - scale.ndim))
    flat = values.reshape((-1, *table.shape[1:])).astype(table.dtype)
    return table.at[rows.ids.reshape(-1)].add(flat, mode="drop")


def count_touched(num_rows: int, rows: Rows, weights: Array) -> Array:
    """For each row the summed weight of the clients that touched it.

    Args:
        num_rows: `I`.
        rows: `ids` `[V, R]`; an id repeated by one client counts once.
        weights: `[V]`.

    Returns:
        `[I]` float.
    """
    once = jnp.broadcast_to(weights[:, None], rows.ids.shape)
    if not rows.ordered:
        first = jax.vmap(lambda ids: first_occurrence(ids, num_rows))(rows.ids)
        once = jnp.where(first == jnp.arange(rows.ids.shape[-1]), once, 0)
    counts = jnp.zeros(num_rows, weights.dtype)
    return counts.at[rows.ids.reshape(-1)].add(once.reshape(-1), mode="drop")
